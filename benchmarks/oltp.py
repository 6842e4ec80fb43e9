"""`oltp`: a large table of a source database, from there to its history and current state in PostGIS and the lake.

- the limit: COPY of the table from the source into a file, and nothing else;
- landing: the same into the landing store, as Parquet with exact values, checked and with its manifest;
- all stages: every record (raw), every version (history) and the current state, each in the lake and in the warehouse;
- a batch of 1,000 changed rows through all stages: of the newest orders, and of orders anywhere;
- the usual way, pandas.read_sql and to_sql, which keeps one table, in one place.

Every run is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import psycopg

from benchmarks.ground import Ground
from benchmarks.house import environment
from benchmarks.measure import Ratio, Report, Run, timed
from benchmarks.pipeline import process

#: Above this many rows, the usual way takes too long and too much memory, and so does making all blocks anew.
_TOO_MANY = 2_000_000
_TABLE = """
CREATE TABLE sales_order (
    sales_order_id integer PRIMARY KEY, created_at timestamp NOT NULL, last_updated timestamp NOT NULL,
    design_id integer NOT NULL, staff_id integer NOT NULL, counterparty_id integer NOT NULL,
    units_sold integer NOT NULL, unit_price numeric NOT NULL, currency_id integer NOT NULL,
    agreed_delivery_date text NOT NULL, agreed_payment_date text NOT NULL,
    agreed_delivery_location_id integer NOT NULL
)"""
_ROWS = """
INSERT INTO sales_order
SELECT n, at, at, n %% 473 + 1, n %% 20 + 1, n %% 19 + 1, n * 7919 %% 99999, (n * 31 %% 200 + 200) / 100.0, n %% 3 + 1,
    (at + interval '3 days')::date::text, (at + interval '5 days')::date::text, n %% 30 + 1
FROM generate_series(1::bigint, %s) AS n,
    LATERAL (SELECT timestamp '2015-01-01' + n * interval '30 seconds' AS at) AS t"""
_CHANGE = """
UPDATE sales_order SET units_sold = units_sold + 1, last_updated = clock_timestamp()
WHERE sales_order_id IN (SELECT %s - (n * %s / 1000)::int FROM generate_series(0, 999) AS n)"""


def run(ground: Ground, sizes: Sequence[int], *, quick: bool) -> Report:
    """Measure each size once, since it is sizes that are compared."""
    report = Report("oltp", "a table of a source database → landing → raw → history and current state")
    for rows in sizes:
        _measure(ground, report, rows)
    small, large = (f"{rows:,} rows" for rows in (min(sizes), max(sizes)))
    memory = (report.megabytes(f"all stages, {large}") or 0) / (report.megabytes(f"all stages, {small}") or 1)
    report.ratios.append(Ratio(f"peak memory of {large} over that of {small}", memory, at_most=1.5))
    return report


def _measure(ground: Ground, report: Report, rows: int) -> None:
    name = f"{rows:,} rows"
    lake = ground.folder / "oltp-lake"
    with ground.database() as source, ground.database() as warehouse, ground.database() as scratch:
        with psycopg.connect(source) as connection:
            connection.execute(_TABLE)
            connection.execute(_ROWS, (rows,))
            connection.execute("CREATE INDEX ON sales_order (last_updated)")
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE sales_order")
        env = environment(warehouse, lake) | {"ETL_TOTESYS_URL": source}

        def note(case: str, measured: Run) -> Run:
            report.runs[f"{case}, {name}"] = [measured]
            ground.console.print(f"  {measured.seconds:8.3f} s  {case}, {name}", style="dim")
            return measured

        limit = note("COPY to a file (the limit)", timed(lambda: _copy(ground, source)))
        whole = note("all stages", process(ground, "benchmarks.oltp_house", env=env))
        landed = whole.parts["landing/oltp"]
        report.ratios.append(Ratio(f"rows landed a second, {name}", rows / landed))
        report.ratios.append(Ratio(f"landing over COPY to a file, {name}", landed / limit.seconds, at_most=3))
        spans = {"the newest": min(rows, 100_000)} | ({"anywhere": rows} if rows <= _TOO_MANY else {})
        for case, span in spans.items():
            before = _read(source)
            with psycopg.connect(source) as connection:
                connection.execute(_CHANGE, (rows, span))
                connection.execute("SELECT pg_stat_force_next_flush()")
            changing = _read(source) - before
            changed = note(f"1,000 changed of {case}", process(ground, "benchmarks.oltp_house", env=env))
            seen = _read(source) - before - changing
            report.ratios.append(
                Ratio(f"rows read of the source for 1,000 changed of {case}, {name}", seen, at_most=1100)
            )
            report.ratios.append(
                Ratio(f"1,000 changed of {case} over all stages, {name}", changed.seconds / whole.seconds)
            )
        if rows <= _TOO_MANY:
            usual = note("read_sql + to_sql", process(ground, "benchmarks.usual_copy", source, scratch))
            report.ratios.append(Ratio(f"read_sql + to_sql over all stages, {name}", usual.seconds / whole.seconds))
    shutil.rmtree(lake)


def _copy(ground: Ground, url: str) -> None:
    path = ground.folder / "copied.csv"
    with (
        psycopg.connect(url) as connection,
        path.open("wb") as file,
        connection.cursor().copy("COPY sales_order TO STDOUT (FORMAT csv)") as copy,
    ):
        for data in copy:
            file.write(data)
    path.unlink()


def _read(url: str) -> int:
    """How many rows the source has read from its table, by its own statistics."""
    query = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'sales_order'"
    with psycopg.connect(url) as connection:
        found = connection.execute(query).fetchone()
    assert found
    return int(found[0])
