"""`./dev rebuild-warehouse`: the warehouse is a projection of the lake, and is made again from it alone."""

from __future__ import annotations

from rich.console import Console

from etl_assets.quality.quarantine import quarantine_table
from etl_assets.stages.staleness import in_order
from etl_assets.storage.configured import publisher
from etl_assets.storage.table import Table


def rebuild_warehouse() -> int:
    """Drop every table of the project in the warehouse, and load it from the lake with its bookkeeping."""
    import etl_assets.definitions  # noqa: F401 the datasets register themselves

    console = Console(soft_wrap=True)
    tables: dict[str, Table] = {}
    for spec in in_order():
        if spec.table is not None:
            tables[spec.table.full_name] = spec.table
            if spec.table.stage in ("raw", "refined"):
                quarantine = quarantine_table(spec.table.name)
                tables[quarantine.full_name] = quarantine
    for name, table in sorted(tables.items()):
        partitions, rows = publisher().restore(table)
        console.print(f"{name}: {rows:,} rows in {partitions:,} partitions")
    publisher().warehouse.refer(tables.values())
    return 0
