"""The sample of the US Census's poverty estimates: SAIPE of states and counties, and national rates by race.

Here: the answers as recorded, arrays below a header, with a column that has changed its name, codes that the
borders do not know, a county too small to be reported, and years reported twice. Not here: the borders (counties.py),
and how the API filters the answers (local/apis).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from etl_assets.local.sample.counties import County
from etl_assets.local.sample.files import json_bytes

_STATE_NAMES = {
    "01": "Alabama",
    "02": "Alaska",
    "06": "California",
    "08": "Colorado",
    "11": "District of Columbia",
    "13": "Georgia",
    "15": "Hawaii",
    "22": "Louisiana",
    "25": "Massachusetts",
    "36": "New York",
    "39": "Ohio",
    "46": "South Dakota",
    "48": "Texas",
    "51": "Virginia",
    "53": "Washington",
}
_RACES = {
    # Race: its first and last year. A group from before 2002 is not the same as any later one.
    1: (1959, 2021),
    2: (2002, 2021),
    3: (1974, 2001),
    4: (2002, 2021),
    5: (1974, 2001),
    6: (2002, 2021),
    7: (2002, 2021),
    8: (1974, 2001),
    9: (2002, 2021),
    10: (2002, 2021),
    11: (1987, 2001),
    12: (1976, 2021),
}


def poverty_files(counties: Sequence[County]) -> dict[str, bytes]:
    """SAIPE of states and of the sample's own counties, and the national rates by race."""
    rng = random.Random(20191219)  # noqa: S311 - repeatable is what is wanted
    states = [(name, (fips,)) for fips, name in _STATE_NAMES.items()]
    areas = [
        *((county.full_name, (county.fips[:2], county.fips[2:])) for county in counties if county.state != "PR"),
        # Codes that counties of an earlier vintage do not have, and a county too small to be reported.
        *(("Kusilvak Census Area", ("02", "158")), ("Oglala Lakota County", ("46", "102"))),
        ("Kalawao County", ("15", "005")),
    ]
    areas.sort(key=lambda area: area[1])
    names: list[str | None] = ["NAME", "SAEPOVALL_PT", "SAEPOVALL_MOE", "SAEPOVRTALL_MOE", "SAEPOVRTALL_PT"]
    files: dict[str, list[list[str | None]]] = {
        f"saipe/state_{year}": [
            [*names, "YEAR" if year == 2017 else "time", "state"],  # it has been called both
            *_estimates(rng, year, states, 10**5),
        ]
        for year in (2017, 2018, 2019)
    }
    for year in (2018, 2019):
        header = [*names, "SAEMHI_PT", "time", "state", "county"]
        files[f"saipe/county_{year}"] = [header, *_estimates(rng, year, areas, 10**3, with_income=True)]
    rates: list[list[str | None]] = [
        ["United States", f"{rng.uniform(8, 31):.1f}", str(year), str(race), str(year), "1"]
        for year in (1959, *range(1966, 2022))
        for race, (start, end) in _RACES.items()
        if start <= year <= end
        for _ in range(2 if year in (2013, 2017) else 1)  # two methods; the answer does not say which is which
    ]
    files["histpov2/all_years.derived"] = [["NAME", "PCTPOV", "YEAR", "RACE", "time", "us"], *rates]
    return {
        f"census/{name}.json": b"[" + b",\n".join(json_bytes(row) for row in rows) + b"]"
        for name, rows in files.items()
    }


def _estimates(
    rng: random.Random, year: int, areas: Iterable[tuple[str, tuple[str, ...]]], size: int, with_income: bool = False
) -> Iterator[list[str | None]]:
    for name, codes in areas:
        poor = round(size * rng.uniform(0.5, 20))
        rate, error = rng.uniform(5, 30), rng.uniform(0.3, 5)
        numbers: list[str | None] = [str(poor), str(round(poor * error / 40)), f"{error:.1f}", f"{rate:.1f}"]
        numbers += [str(rng.randrange(28_000, 110_000))] if with_income else []
        if name == "Kalawao County":
            numbers = [None] * len(numbers)
        yield [name, *numbers, str(year), *codes]
