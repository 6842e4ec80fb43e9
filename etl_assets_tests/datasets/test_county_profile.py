"""Counties side by side: what each dataset knows of a county, put together again by other means."""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from typing import Any

from etl_assets.quality.states import FIPS
from etl_assets_tests.house import House

PROFILE = (
    "SELECT fips, county, state_code, poverty_year, poverty_rate, median_household_income, protests, protest_months,"
    " protests_per_month, state_advances_month, state_advances_balance FROM presentation.county_profile"
)


def independently(house: House) -> dict[str, tuple[Any, ...]]:
    """The profile from refined tables only, in plain Python."""
    before = {"46102": "46113", "02158": "02270"}
    counties = {fips: rest for fips, *rest in house.sql("SELECT fips, name, state_fips FROM refined.us_counties")}
    poverty: dict[str, tuple[Any, ...]] = {}
    for fips, *values in house.sql(
        "SELECT fips, year, poverty_rate, median_household_income FROM refined.small_area_poverty"
        " WHERE level = 'county' AND poverty_rate IS NOT NULL ORDER BY year, fips"
    ):
        poverty[fips if fips in counties else before.get(fips, fips)] = tuple(values)
    protests: dict[str, int] = defaultdict(int)
    months = set()
    for fips, day, count in house.sql("SELECT fips, month, events FROM presentation.county_protests_monthly"):
        protests[fips] += count
        months.add(day)
    span = len(months)
    days: dict[str, dict[date, Any]] = defaultdict(lambda: defaultdict(int))
    for code, day, balance in house.sql(
        "SELECT state_code, record_date, outstanding_advance_balance FROM refined.state_unemployment_advances"
    ):
        days[code][day] += balance
    codes = {fips: code for code, fips in FIPS.items()}
    found = {}
    for fips, (name, state) in counties.items():
        code = codes.get(state)
        last = max(days[code]) if code and days.get(code) else None
        found[fips] = (
            *(name, code),
            *poverty.get(fips, (None, None, None)),
            *(protests[fips], span, protests[fips] / span),
            *((last.replace(day=1), days[code or ""][last]) if last else (None, None)),
        )
    return found


def test_a_county_has_what_each_dataset_knows_of_it(house: House) -> None:
    """And keeps it when one of them is published again: the profile is made anew, the others are not."""
    house.publish("2025-03-05")
    house.datasets = ("county_profile",)
    assert house.run(), house.failures()
    wanted = independently(house)
    assert {row[0]: row[1:] for row in house.sql(PROFILE)} == wanted
    assert any(row[7] for row in wanted.values())
    assert any(row[9] for row in wanted.values())
    same = house.value(
        "SELECT count(*) FROM presentation.county_profile p JOIN refined.us_counties c USING (fips)"
        " WHERE ST_Equals(p.geometry, c.geometry)"
    )
    assert same == len(wanted)

    house.publish("2025-04-04")
    assert house.run(), house.failures()
    assert "refined/small_area_poverty" not in house.made()
    assert house.made()["presentation/county_profile"] == 1
    assert {row[0]: row[1:] for row in house.sql(PROFILE)} == independently(house)
    assert house.run()
    assert not house.made()
