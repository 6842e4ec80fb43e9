"""`./dev diff TABLE`: what its publications changed, or how it differs by key from the same table of another lake."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import date
from typing import Any

import polars as pl
from psycopg.errors import InvalidSchemaName, UndefinedTable
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from etl_assets.logs import plain
from etl_assets.stages.staleness import in_order
from etl_assets.storage.changes import compare, differences
from etl_assets.storage.configured import lake, warehouse
from etl_assets.storage.lake import Lake
from etl_assets.storage.table import Table

_SHOWN = 20


def diff(name: str, since: date | None, other: str | None) -> int:
    """Print a table's changes since a day, or its differences from another lake's; return 1 if there are differences.

    Raises ValueError for a table that does not exist or has no key, and for a folder that does not exist.
    """
    import etl_assets.definitions  # noqa: F401 the datasets register themselves

    tables = {spec.table.full_name: spec.table for spec in in_order() if spec.table and spec.table.primary_key}
    if name not in tables:
        raise ValueError(f"There is no table {name} with a key; the tables with one are {', '.join(sorted(tables))}.")
    console = Console(soft_wrap=True)
    if other is None:
        _history(console, tables[name], since)
        return 0
    beside = Lake(other)
    if beside.folder is not None and not beside.folder.is_dir():
        raise ValueError(f"There is no lake in {beside.folder}.")
    return 1 if _beside(console, tables[name], beside) else 0


def _history(console: Console, table: Table, since: date | None) -> None:
    rows: list[tuple[Any, ...]] = []
    # Before the first publication there is no table of changes.
    with suppress(UndefinedTable, InvalidSchemaName), warehouse().connect() as connection:
        rows = connection.execute(
            "SELECT published_at, partition, rows_added, rows_gone, rows_changed, values_changed FROM etl.changes"
            " WHERE asset = %s AND published_at >= %s ORDER BY published_at, partition",
            (table.full_name, since or date.min),
        ).fetchall()
    shown = _table("published", "partition", "added", "gone", "changed", "values changed by column")
    for at, partition, added, gone, changed, columns in rows:
        _add(shown, f"{at:%Y-%m-%d %H:%M}Z", partition or "-", added, gone, changed, _counts(columns))
    console.print(shown)
    if not rows:
        console.print("No publication has changed what an earlier one had published.")


def _beside(console: Console, table: Table, other: Lake) -> bool:
    """Compare the partitions whose content hashes differ: the others are equal, and are not read."""
    ours, theirs = lake().partitions(table), other.partitions(table)
    keys = sorted(ours.keys() | theirs.keys())
    known, wanted = lake().facts(table, ours), other.facts(table, theirs)
    unequal = [k for k in keys if k not in known or k not in wanted or known[k].content_hash != wanted[k].content_hash]
    total, columns, found = Counter[str](), Counter[str](), pl.DataFrame()
    for key in unequal:
        here, there = (place.partition_frames(table, [key]).get(key) for place in (lake(), other))
        after = here if here is not None else there.clear()  # pyrefly: ignore[missing-attribute] # one of them has it
        before = there if there is not None else after.clear()
        changes = compare(before, after, table.primary_key)
        total.update(added=changes.added, gone=changes.gone, changed=changes.changed)
        columns.update(changes.columns)
        if found.height < _SHOWN:
            found = pl.concat([found, differences(before, after, table.primary_key)], how="diagonal")
    console.print(
        Text(
            f"{table.full_name} compared with {other.url}: {total['added']:,} rows added, {total['gone']:,} gone and "
            f"{total['changed']:,} changed in {len(unequal):,} of {len(keys):,} partitions."
        )
    )
    if columns:
        console.print(Text(f"Values changed: {_counts(columns)}"))
        shown = _table("key", "column", "there", "here")
        for row in found.head(_SHOWN).iter_rows():
            _add(shown, *row)
        console.print(shown)
    return bool(unequal)


def _table(*columns: str) -> RichTable:
    table = RichTable(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("added", "gone", "changed") else "left", overflow="fold")
    return table


def _add(table: RichTable, *cells: object) -> None:
    """Add a row whose cells are shown literally: markup and terminal escapes in them have no effect."""
    shown = ("null" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells)
    table.add_row(*(Text(plain(text, 200)) for text in shown))


def _counts(columns: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(columns.items()))
