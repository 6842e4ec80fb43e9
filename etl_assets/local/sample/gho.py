"""The sample of the WHO's Global Health Observatory: two publications of two indicators, as its API answers.

Here: the answers as recorded, with values restated (`RESTATED_VALUES`), aggregates beside countries, ids that are
used again for other rows, and the form that answers had years ago. Not here: how the API pages and filters them
(local/apis).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from etl_assets.local.sample.files import gzipped, json_bytes

#: Place and year of the values of WHOSIS_000001 that differ in the second publication, for each sex.
RESTATED_VALUES = frozenset(("ZWE", year) for year in (2019, 2020, 2021))

_REGIONS = {
    "AFR": "Africa",
    "AMR": "Americas",
    "EMR": "Eastern Mediterranean",
    "EUR": "Europe",
    "SEAR": "South-East Asia",
    "WPR": "Western Pacific",
}
_PLACES = {
    "AFR": "ZAF BWA NAM ZWE MOZ LSO",
    "AMR": "BRA USA ATG",
    "EMR": "EGY",
    "EUR": "DEU TUR ISL",
    "SEAR": "IND PRK",
    "WPR": "JPN",
}
_SPATIAL: list[tuple[str, str, str | None]] = [
    # Type, code, region
    *(("COUNTRY", code, region) for region, codes in _PLACES.items() for code in codes.split()),
    *(("REGION", region, None) for region in _REGIONS),
    *(("WORLDBANKINCOMEGROUP", code, None) for code in ("WB_HI", "WB_UMI", "WB_LMI", "WB_LI")),
    ("GLOBAL", "GLOBAL", None),
]
_HEALTH_FIELDS = (
    *("Id", "IndicatorCode", "SpatialDimType", "SpatialDim", "ParentLocationCode", "TimeDimType"),
    *("ParentLocation", "Dim1Type", "TimeDim", "Dim1", "Dim2Type", "Dim2", "Dim3Type", "Dim3"),
    *("DataSourceDimType", "DataSourceDim", "Value", "NumericValue", "Low", "High", "Comments", "Date"),
    *("TimeDimensionValue", "TimeDimensionBegin", "TimeDimensionEnd"),
)
_SEXES = {"SEX_BTSX": 0.0, "SEX_MLE": -2.4, "SEX_FMLE": 2.3}


def health_files() -> dict[str, bytes]:
    """Two publications of two indicators; the second indicator's older one has the form that answers had years ago."""
    rng = random.Random(20240802)  # noqa: S311 - repeatable is what is wanted
    at_birth = _indicator(rng, "WHOSIS_000001", range(2000, 2022), 62.0)
    healthy = _indicator(rng, "WHOSIS_000002", (2000, 2010, 2015, 2019), 54.0)
    restated = [
        _with_value(row, row["NumericValue"] - 0.8 - rng.random() / 10)
        if (row["SpatialDim"], row["TimeDim"]) in RESTATED_VALUES
        else row
        for row in at_birth
    ]
    all_restated = [
        _with_value(row, row["NumericValue"] + rng.random() - 0.5) if rng.random() < 0.86 else row for row in healthy
    ]
    older = [_as_years_ago(row) for row in healthy]
    for row in older[-2:]:
        row.update(Value="Data not available", NumericValue=None, Low=None, High=None)
    return {
        "who_gho/2024-10-01/WHOSIS_000001.json.gz": _answer(rng, at_birth, "2024-07-15T08:30:05Z", is_first=True),
        "who_gho/2025-11-09/WHOSIS_000001.json.gz": _answer(rng, restated, "2025-09-01T10:12:05.193+02:00"),
        "who_gho/2024-10-01/WHOSIS_000002.json.gz": _answer(rng, older, "2019-03-05T14:07:22.1+01:00", is_first=True),
        "who_gho/2025-11-09/WHOSIS_000002.json.gz": _answer(rng, all_restated, "2025-09-01T10:14:40.07+02:00"),
    }


def _indicator(rng: random.Random, code: str, years: Iterable[int], lowest: float) -> list[dict[str, Any]]:
    rows = []
    for kind, place, region in _SPATIAL:
        level, rise = lowest + 18 * rng.random(), 0.1 + 0.2 * rng.random()
        for year in years:
            for sex, difference in _SEXES.items():
                row = dict.fromkeys(_HEALTH_FIELDS) | {
                    "IndicatorCode": code,
                    "SpatialDimType": kind,
                    "SpatialDim": place,
                    "ParentLocationCode": region,
                    "TimeDimType": "YEAR",
                    "ParentLocation": _REGIONS.get(region or ""),
                    "Dim1Type": "SEX",
                    "TimeDim": year,
                    "Dim1": sex,
                    "TimeDimensionValue": str(year),
                    "TimeDimensionBegin": f"{year}-01-01T00:00:00+01:00",
                    "TimeDimensionEnd": f"{year}-12-31T00:00:00+01:00",
                }
                value = level + rise * (year - 2000) + difference + rng.random() / 2
                # The newest values of small islands have no range.
                spread = 0.0 if place in ("ISL", "ATG") and year >= 2019 else 0.3 + rng.random()
                rows.append(_with_value(row | {"Low": value - spread, "High": value + spread}, value))
    return rows


def _with_value(row: dict[str, Any], value: float) -> dict[str, Any]:
    by = 0.0 if row["NumericValue"] is None else value - row["NumericValue"]
    low, high = row["Low"], row["High"]
    if low is None or low == high:
        return row | {"Value": f"{value:.1f}", "NumericValue": value, "Low": None, "High": None}
    low, high = low + by, high + by
    return row | {"Value": f"{value:.1f} [{low:.1f}-{high:.1f}]", "NumericValue": value, "Low": low, "High": high}


def _as_years_ago(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "ParentLocation"} | {
        "Dim1": row["Dim1"].removeprefix("SEX_")
    }


def _answer(rng: random.Random, rows: list[dict[str, Any]], published: str, *, is_first: bool = False) -> bytes:
    # An Id is a row's place in a table that is filled anew each time: some Ids come again, for another row.
    first_ids = [1 + 7 * number for number in range(len(rows))]
    later_ids = [4_000_000 + 5 * number for number in range(len(rows))]
    later_ids[1:22] = first_ids[:21]
    decimals = 5 if is_first else 8
    dated = [
        {name: round(value, decimals) if isinstance(value, float) else value for name, value in row.items()}
        | {"Id": number, "Date": published}
        for row, number in zip(rows, first_ids if is_first else later_ids, strict=True)
    ]
    rng.shuffle(dated)
    context = f"https://ghoapi.azureedge.net/api/$metadata#{rows[0]['IndicatorCode']}"
    return gzipped(json_bytes({"@odata.context": context, "value": dated}))
