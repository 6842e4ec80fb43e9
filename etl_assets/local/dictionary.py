"""`./dev dictionary`: write the data dictionary, every table and column of every contract, from the contracts."""

from __future__ import annotations

import etl_assets.definitions  # noqa: F401 the datasets register themselves
from etl_assets.settings import PROJECT
from etl_assets.stages.staleness import in_order
from etl_assets.storage.table import Table

DICTIONARY = PROJECT / "docs" / "data_dictionary.md"

_INTRODUCTION = """# Data dictionary

Every table that has a contract. Raw tables have the columns of their source, quarantine tables all have the same ones:
the record, what is wrong with it, and where it is from. Made by `./dev dictionary`; a test keeps it current.
"""


def current_dictionary() -> str:
    """The dictionary of the refined and presentation tables as they are declared now, as Markdown."""
    tables = [spec.table for spec in in_order() if spec.table]
    return "\n".join([_INTRODUCTION, *(_section(table) for table in tables if table.stage != "raw")])


def write_dictionary() -> None:
    """Write the dictionary."""
    DICTIONARY.parent.mkdir(exist_ok=True)
    DICTIONARY.write_text(current_dictionary())


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
