"""`./dev rebuild-warehouse`: the warehouse is a projection of the lake, and is made again from it alone."""

from __future__ import annotations

from collections import defaultdict

import psycopg
from rich.console import Console
from rich.text import Text

from etl_assets.logs import plain
from etl_assets.stages.staleness import in_order
from etl_assets.storage.configured import publisher
from etl_assets.storage.lake import LakeError
from etl_assets.storage.table import Table
from etl_assets.storage.transaction import WarehouseError


def rebuild_warehouse() -> int:
    """Drop every table of the project in the warehouse, and load it from the lake with its bookkeeping.

    Return 1 if any of them could not be loaded: it stays as it was, and the others are made.
    """
    import etl_assets.definitions  # noqa: F401 the datasets register themselves

    console = Console(soft_wrap=True)
    failed: list[str] = []
    found = [(spec.table, spec.quarantine) for spec in in_order()]
    tables = {table.full_name: table for pair in found for table in pair if table}
    # An empty quarantine has no object in the lake: it is made if a table that is published with it was.
    beside: dict[str, list[Table]] = defaultdict(list)
    for table, quarantine in found:
        if table and quarantine:
            beside[quarantine.full_name].append(table)
    if not any(publisher().lake.partitions(table) for table in tables.values()):
        console.print(f"The lake {publisher().lake.url} holds no table, so nothing was dropped. Check ETL_LAKE_URL.")
        return 1
    publisher().warehouse.prepare()  # if it cannot be reached, that is said once and not for every table
    for name, table in sorted(tables.items()):
        try:
            is_made = any(map(publisher().was_published, beside[name]))
            partitions, rows = publisher().restore(table, is_made=is_made)
        except (LakeError, WarehouseError, ValueError, psycopg.Error) as error:  # an object of an earlier contract, say
            failed.append(name)
            console.print(Text.assemble(("failed", "red"), f" {name}: {plain(str(error))}"))
        else:
            if partitions:
                console.print(f"{name}: {rows:,} rows in {partitions:,} partitions")
    for name, table in sorted(tables.items()):
        try:
            publisher().warehouse.refer(table)
        except WarehouseError as error:
            failed.append(name)
            console.print(Text.assemble(("failed", "red"), f" {name} lacks a foreign key: {plain(str(error))}"))
    return 1 if failed else 0
