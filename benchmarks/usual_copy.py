"""The usual way from one database to another: pandas.read_sql and to_sql; see `oltp`."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import sqlalchemy

from benchmarks.measure import Stopwatch


def main(run: str, source: str, target: str) -> None:
    """Copy the orders."""
    one, other = (
        sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:")) for url in (source, target)
    )
    with Stopwatch(Path(run)) as watch:
        frame = pd.read_sql("SELECT * FROM sales_order", one)
        watch.part("read_sql")
        frame.to_sql("sales_order", other, if_exists="replace", index=False, chunksize=10_000)
        watch.part("to_sql")


if __name__ == "__main__":
    main(*sys.argv[1:])
