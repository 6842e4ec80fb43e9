"""All that a house holds, as content: to compare one house with another, or with itself before."""

from __future__ import annotations

from typing import LiteralString

import polars as pl
import psycopg
from psycopg import sql

from etl_assets.quality.quarantine import quarantine_table
from etl_assets.stages.staleness import in_order
from etl_assets.storage.lake import Lake, encode
from etl_assets.storage.table import WHOLE, Facts, Partitioning, Table
from etl_assets_tests.house import House, frame_of

_TRUNCATED: dict[str, LiteralString] = {"day": "day", "month": "month", "year": "year"}


def tables() -> list[Table]:
    """Every table of the project, quarantines included."""
    own = [spec.table for spec in in_order() if spec.table]
    return [*own, *(quarantine_table(table.name) for table in own if table.stage in ("raw", "refined"))]


def _there(lake: Lake) -> list[Table]:
    """The tables that have objects: on S3, asking for those of each takes a while."""
    folders = {tuple(path.split("/")[:2]) for path in lake.list("")}
    return [table for table in tables() if (table.stage, table.name) in folders]


def rows(house: House) -> dict[str, pl.DataFrame]:
    """Every table that has rows, without provenance; in whatever order it has its columns and rows."""
    names = sorted({table.full_name for table in tables()})
    with psycopg.connect(house.warehouse_url) as connection:
        there = "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NOT NULL ORDER BY name"
        frames = {name: frame_of(connection, name) for (name,) in connection.execute(there, (names,)).fetchall()}
    found = {name: frame.select(sorted(frame.columns)) for name, frame in frames.items() if not frame.is_empty()}
    return {
        name: frame.sort([c for c, dtype in frame.schema.items() if not isinstance(dtype, pl.List)])
        for name, frame in found.items()
    }


def bookkeeping(house: House) -> dict[tuple[str, str], tuple[int, str]]:
    """What the warehouse says of every partition: its rows and its content."""
    found = house.sql("SELECT asset, partition, rows, content_hash FROM etl.publications")
    return {(asset, partition): (count, digest) for asset, partition, count, digest in found}


def in_lake(lake: Lake) -> dict[str, object]:
    """Every object of the lake by path: what a partition says of itself, what ids were given, else its name."""
    found: dict[str, object] = dict.fromkeys(lake.list(""))
    for table in _there(lake):
        for key, facts in lake.facts(table, lake.partitions(table)).items():
            found[lake.path(table, key)] = (facts.rows, facts.content_hash)
    for path in found:
        if path.startswith("identities/"):
            found[path] = lake.get(path)
    return found


def differences(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> list[str]:
    """The tables that differ."""
    return [
        name
        for name in one.keys() | other.keys()
        if name not in one or name not in other or not one[name].equals(other[name])
    ]


def lake_agrees_with_warehouse(house: House, lake: Lake) -> bool:
    """Whether every partition is the same in both, and in the warehouse's bookkeeping."""
    told = bookkeeping(house)
    held = {
        (table.full_name, key): (facts.rows, facts.content_hash)
        for table in _there(lake)
        for key, facts in lake.facts(table, lake.partitions(table)).items()
    }
    partitioned = {table.full_name for table in tables() if table.partitioning}
    return held == {place: said for place, said in told.items() if place[1] or place[0] not in partitioned}


def put_partition(lake: Lake, table: Table, frame: pl.DataFrame, facts: Facts) -> int:
    """Put a partition into the lake, and into no warehouse; gives the object's size in bytes."""
    data = encode(table, frame, facts)
    lake.put(lake.path(table, facts.partition), data)
    return len(data)


def partition_key(partitioning: Partitioning | None) -> sql.Composable:
    """The partition key of a row of the table `whole` in SQL, as the lake has it."""
    if partitioning is None:
        return sql.Literal(WHOLE)
    column = sql.Identifier("whole", partitioning.column)
    if partitioning.every == "value":
        return sql.SQL("{}::text").format(column)
    if partitioning.every == "year_number":
        return sql.SQL("{}::text || '-01-01'").format(column)
    if partitioning.every == "block":
        return sql.SQL("lpad(({0} - {0} % 100000)::text, 12, '0')").format(column)
    return sql.SQL("to_char(date_trunc({}, {}), 'YYYY-MM-DD')").format(
        sql.Literal(_TRUNCATED[partitioning.every]), column
    )
