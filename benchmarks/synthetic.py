"""Large clean files of counties and events, as many as wanted, for benchmarks to land and measure.

Here: rows of the sample's form and words, without its dirt, the same every time. Not here: where they are put
and served (ground.py), and the sample itself (etl_assets.local.sample).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from etl_assets.local.sample.counties import County, geojson, grid
from etl_assets.local.sample.events import (
    CAUSES,
    COLUMNS,
    DOMAINS,
    EVENT_TYPES,
    GRIEVANCES,
    ORGANIZATIONS,
    VENUES,
)

_LOWER_48 = (-124.0, 26.0, -67.5, 48.5)
_LOWER_48_STATES = (
    *("AL 01", "AZ 04", "AR 05", "CA 06", "CO 08", "CT 09", "DE 10", "FL 12", "GA 13", "ID 16", "IL 17"),
    *("IN 18", "IA 19", "KS 20", "KY 21", "LA 22", "ME 23", "MD 24", "MA 25", "MI 26", "MN 27", "MS 28"),
    *("MO 29", "MT 30", "NE 31", "NV 32", "NH 33", "NJ 34", "NM 35", "NY 36", "NC 37", "ND 38", "OH 39"),
    *("OK 40", "OR 41", "PA 42", "RI 44", "SC 45", "SD 46", "TN 47", "TX 48", "UT 49", "VT 50", "VA 51"),
    *("WA 53", "WV 54", "WI 55", "WY 56"),
)
#: Nearly as many as there are.
COUNTIES = 3000
_LOCALITIES = 5000


def _columns_and_rows(cells: int) -> tuple[int, int]:
    """Return a grid of at least that many cells, about twice as wide as high."""
    rows = max(1, round(math.sqrt(cells / 2)))
    return math.ceil(cells / rows), rows


def _fips(cell: int, cells: int) -> tuple[str, str]:
    """Return the state and FIPS code of a cell: an equal share of the cells for each state."""
    position = cell * len(_LOWER_48_STATES)
    state, fips = _LOWER_48_STATES[position // cells].split()
    return state, f"{fips}{1 + 2 * (position % cells // len(_LOWER_48_STATES)):03d}"


def synthetic_counties(path: Path, counties: int = COUNTIES) -> None:
    """Write a GeoJSON file of that many counties, of about 60 vertices each, all over the lower 48 states."""
    rng = random.Random(0)
    columns, rows = _columns_and_rows(counties)
    rings = grid(rng, _LOWER_48, columns, rows, points_per_edge=14)[:counties]
    path.write_bytes(
        geojson(
            County(state, fips, f"Cell {number}", "County", [[ring]], [])
            for number, ring in enumerate(rings)
            for state, fips in [_fips(number, counties)]
        )
    )


def synthetic_events(
    path: Path,
    rows: int,
    *,
    days: int = 365,
    first_day: date = date(2024, 1, 1),
    counties: int = COUNTIES,
    corrected_days: int = 0,
) -> None:
    """Write a clean phase 3 event file of that many rows.

    Every event has its own key and lies in one of some thousand localities, well inside the county that its FIPS code
    names, one of the `counties` of `synthetic_counties`. With `corrected_days`, that many days, spread over the whole,
    have other sizes; every other day is the same to the byte as without.
    """
    rng = np.random.default_rng(0)
    columns, grid_rows = _columns_and_rows(counties)
    west, south, east, north = _LOWER_48
    cell = rng.integers(0, counties, _LOCALITIES)
    x, y = 0.2 + 0.6 * rng.random(_LOCALITIES), 0.2 + 0.6 * rng.random(_LOCALITIES)
    state_and_fips = [_fips(number, counties) for number in cell.tolist()]
    places = pl.DataFrame(
        {
            "locality": [f"Town {number}" for number in range(_LOCALITIES)],
            "state": [state for state, _ in state_and_fips],
            "resolved_county": [f"Cell {number} County" for number in cell.tolist()],
            "fips_code": [f"{int(fips)}.0" for _, fips in state_and_fips],
            "lat": np.round(south + (cell // columns + y) * (north - south) / grid_rows, 7),
            "lon": np.round(west + (cell % columns + x) * (east - west) / columns, 7),
        }
    ).with_columns(resolved_locality="locality", resolved_state="state")

    day = np.sort(rng.integers(0, days, rows))
    # A few localities have most of the events.
    place = (_LOCALITIES * rng.random(rows) ** 2.5).astype(np.int64)
    low = rng.choice([0, 0, 0, 24, 100, 200, 1000], rows)
    high = low * rng.choice([1, 1, 1, 2], rows)
    if corrected_days:
        chosen = np.linspace(0, days - 1, corrected_days).round().astype(np.int64)
        high = np.where(np.isin(day, chosen), high + low, high)
    number = pl.Series(np.arange(rows)).cast(pl.String)

    def pick(values: Sequence[str | None]) -> pl.Series:
        return pl.Series(values, dtype=pl.String).gather(rng.integers(0, len(values), rows))

    def size(values: np.ndarray) -> pl.Series:
        return pl.Series(values, dtype=pl.Float64).set(pl.Series(low == 0), None)

    frame = places[place].with_columns(
        date=pl.Series(day) * timedelta(days=1) + pl.lit(first_day),
        location=pick(VENUES) + " " + number,
        title=pick([*(f"March for {cause.title()}" for cause in CAUSES), None]),
        event_type=pick(EVENT_TYPES),
        organizations=pick(ORGANIZATIONS) + "; " + pick(ORGANIZATIONS),
        claims_summary=pick([f"for {cause}; against {that}" for cause in CAUSES for that in GRIEVANCES]),
        valence=pick(("0.0", "1.0", "1.0", "2.0")),
        online=pl.lit("0"),
        size_low=size(low),
        size_high=size(high),
        size_mean=size((low + high) / 2),
        source1=pick(DOMAINS),
        source2=pick((*DOMAINS, *[None] * len(DOMAINS))),
        source3=pick((*DOMAINS, *[None] * 4 * len(DOMAINS))),
    )
    empty = [pl.lit(None, pl.String).alias(name) for name in COLUMNS if name not in frame.columns]
    frame.with_columns(empty).select(COLUMNS).write_csv(path)
