"""One large table of a source database through all stages, in a process of its own: see `oltp`.

`python -m benchmarks.oltp_house RUN.json` lands what is new and makes what is out of date, each asset as a Dagster run,
and writes down how long that took and how much memory it had. The environment says where from and where to.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg
import polars as pl

from benchmarks.measure import Stopwatch
from etl_assets.automation.partitions import daily
from etl_assets.local.in_process import execute
from etl_assets.quality.contract import Contract, column
from etl_assets.sources.database import DatabaseSource, SourceTable
from etl_assets.stages import Dataset, landing
from etl_assets.stages.dataset import SPECS
from etl_assets.stages.history import versioned
from etl_assets.stages.staleness import State
from etl_assets.storage.io_managers import LandingIOManager, table_io
from etl_assets.storage.table import Partitioning

DATASET = Dataset(
    name="oltp", title="Generated orders", publisher="-", homepage="https://example.org", licence="-", citation="-",
    cadence="-", partitions=daily("2022-11-03", ahead=1),
)  # fmt: skip


class Order(
    Contract,
    stage="refined",
    table="oltp_sales_order",
    key=["sales_order_id"],
    partitioning=Partitioning("sales_order_id", "block"),
):
    """Orders as ToteSys has them."""

    sales_order_id: pl.Int64 = column("Key", ge=1)
    created_at: pl.Datetime("us") = column("Created")  # pyrefly: ignore[invalid-annotation]
    last_updated: pl.Datetime("us") = column("Changed")  # pyrefly: ignore[invalid-annotation]
    design_id: pl.Int64 = column("Design")
    staff_id: pl.Int64 = column("Staff")
    counterparty_id: pl.Int64 = column("Counterparty")
    units_sold: pl.Int64 = column("Units", ge=0)
    unit_price: pl.Decimal(10, 2) = column("Price", ge=0)  # pyrefly: ignore[invalid-annotation]
    currency_id: pl.Int64 = column("Currency")
    agreed_delivery_date: pl.Date = column("Delivery")
    agreed_payment_date: pl.Date = column("Payment")
    agreed_delivery_location_id: pl.Int64 = column("Location")


SOURCE = SourceTable("sales_order", "sales_order_id", list(Order.columns()), changed="last_updated")
LANDED = landing(DATASET, DatabaseSource("totesys", [SOURCE]))
TABLES = versioned(DATASET, LANDED, [Order])
ASSETS = [LANDED, TABLES[Order].raw, TABLES[Order].history, TABLES[Order].current]


def main(run: str) -> None:
    """Make all of it, stage by stage."""
    tables = {spec.key: spec.table for spec in SPECS.values() if spec.table}
    resources = {"landing_io": LandingIOManager(), "table_io": table_io(tables)}
    definitions = dg.Definitions(assets=ASSETS, resources=resources)
    with dg.DagsterInstance.ephemeral() as instance, Stopwatch(Path(run)) as watch:
        for asset in ASSETS:
            days = sorted(State(instance).out_of_date(SPECS[asset.key])) if asset.partitions_def else []
            execute(definitions, instance, [asset.key], {}, partitions=days, raise_on_error=True)
            watch.part(asset.key.to_user_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
