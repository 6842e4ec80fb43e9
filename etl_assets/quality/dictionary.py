"""The data dictionary: every table and column of every contract, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from etl_assets.storage.table import Table

_INTRODUCTION = """# Data dictionary

Every table that has a contract. Raw tables have the columns of their source, quarantine tables all have the same ones:
the record, what is wrong with it, and where it is from. Made by `./dev dictionary`; a test keeps it current.
"""


def data_dictionary(tables: Iterable[Table]) -> str:
    """The dictionary of tables as Markdown, in the order given."""
    return "\n".join([_INTRODUCTION, *(_section(table) for table in tables)])


def _section(table: Table) -> str:
    key = ", ".join(f"`{name}`" for name in table.primary_key) or "none"
    cut = table.partitioning
    parted = f"; partitioned by {cut.every} of `{cut.column}`" if cut else ""
    lines = [f"## {table.full_name}", "", table.description, "", f"Key: {key}{parted}.", ""]
    lines += ["| column | type | null | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{c.name}` | {c.sql} | {'yes' if c.nullable else 'no'} | {c.description.replace('|', '&#124;')} |"
        for c in table.stored_columns()
    ]
    return "\n".join([*lines, ""])
