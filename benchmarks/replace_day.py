"""`replace-day`: one day in a small table and one in a large one, each replaced by other rows through the publisher.

Publishing is everything that a step does with its frame: content hash, object in the lake, and the rows with their
bookkeeping in the warehouse. The day has the same number of rows in both tables; the tables differ in their days.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import partial

import polars as pl

from benchmarks.ground import FIRST_DAY, LOCATED, Ground, located_rows
from benchmarks.measure import Case, Ratio, Report, Run, interleave, timed
from etl_assets.storage.lake import Lake
from etl_assets.storage.publish import Publisher
from etl_assets.storage.table import Part, Publication, Table
from etl_assets.storage.warehouse import Warehouse

#: A replacement is short: this many in each round make a steady median.
_TIMES = 5
_DAYS_AT_ONCE = 50


def run(ground: Ground, sizes: Sequence[int], *, quick: bool) -> Report:
    """Measure."""
    small, large = sizes
    per_day = small // 20
    report = Report("replace-day", f"one day of {per_day:,} rows in a table of {small:,} and of {large:,} rows")
    with ground.database() as url:
        publisher = Publisher(Lake(str(ground.folder / "replace-day")), Warehouse(url))
        publisher.warehouse.prepare()
        cases: dict[str, Case] = {}
        for rows in sizes:
            table = replace(LOCATED, name=f"located_{rows}")
            for number, parts in enumerate(_filling(rows, per_day)):
                publisher.publish([Publication(table, parts)], f"fill {number}")
            cases[f"{rows:,} rows"] = partial(_replace, publisher, table, per_day, itertools.count(1))
        with publisher.warehouse.connect(role=None) as connection:
            connection.execute("CHECKPOINT")  # no case pays for the dirty pages of the filling
        report.runs = interleave(cases, ground.rounds * _TIMES, ground.console)
    first, last = cases
    report.ratios.append(Ratio(f"cost at {last} over the cost at {first}", report.over(last, first), at_most=1.2))
    return report


def _filling(rows: int, per_day: int) -> Iterator[list[Part]]:
    """The table's days, some at a time."""
    days = rows // per_day
    for start in range(0, days, _DAYS_AT_ONCE):
        count = min(_DAYS_AT_ONCE, days - start)
        first_day = FIRST_DAY + timedelta(days=start)
        frame = located_rows(count * per_day, start * per_day + 1, first_day, count)
        cut = frame.partition_by("event_date", as_dict=True, maintain_order=True)
        yield [Part(str(key[0]), part, "fill") for key, part in cut.items()]


def _replace(publisher: Publisher, table: Table, per_day: int, numbers: Iterator[int]) -> Run:
    """Time replacing the tenth day by the same events with other sizes."""
    number, day = next(numbers), 9
    wanted: date = FIRST_DAY + timedelta(days=day)
    frame = located_rows(per_day, day * per_day + 1, wanted, 1).with_columns(size_mean=pl.lit(float(number)))
    publication = Publication(table, [Part(str(wanted), frame, f"correction {number}")])
    return timed(partial(publisher.publish, [publication], f"correction {number}"))
