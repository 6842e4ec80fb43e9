"""Counties side by side: poverty, income, protests and their state's advances, which only a common house can join."""

import geopandas as gpd
import polars as pl

from etl_assets.datasets.poverty_small_area import presentation_county_poverty
from etl_assets.datasets.protest_events import presentation_county_protests_monthly
from etl_assets.datasets.state_advances_monthly import presentation_state_advances_monthly
from etl_assets.datasets.us_counties import refined_us_counties
from etl_assets.quality.contract import Contract, column, geometry
from etl_assets.quality.states import FIPS
from etl_assets.stages import Dataset, Of, Result, presentation
from etl_assets.stages.pictures import choropleth
from etl_assets.storage.frames import from_geopandas

DATASET = Dataset(
    name="county_profile",
    title="Counties side by side",
    publisher="this project",
    homepage="https://www.census.gov/",
    licence="as its inputs",
    citation="US Census Bureau; Crowd Counting Consortium; US Treasury",
    cadence="whenever one of its inputs changes",
)
AMOUNT = pl.Decimal(18, 2)


class CountyProfile(Contract, stage="presentation", table="county_profile", key=["fips"]):
    """One row per county that has a boundary, with the newest that the other datasets know about it."""

    fips: pl.String = column("Five-digit FIPS code")
    county: pl.String = column("Name of the county")
    state_code: pl.String = column("Postal code of the state", nullable=True)
    poverty_year: pl.Int32 = column("Newest year with an estimate for the county", unit="year", nullable=True)
    poverty_rate: pl.Float64 = column("Share of people in poverty in that year", unit="%", nullable=True)
    median_household_income: pl.Int64 = column("Median household income in that year", unit="US dollars", nullable=True)
    protests: pl.Int64 = column("Protest events in all months", unit="events", ge=0)
    protest_months: pl.Int64 = column("Months with events in any county", unit="months", ge=0)
    protests_per_month: pl.Float64 = column("protests / protest_months", unit="events a month", nullable=True)
    state_advances_month: pl.Date = column("Newest month of the state's advances", nullable=True)
    state_advances_balance: AMOUNT = column(
        "The state's outstanding advances at the end of that month", unit="US dollars", nullable=True
    )
    geometry: pl.Binary = geometry("MultiPolygon", 4326, "Boundary of the county")


@presentation(
    DATASET,
    CountyProfile,
    counties=Of(refined_us_counties, ["fips", "name", "state_fips", "geometry"]),
    poverty=Of(
        presentation_county_poverty, ["boundary_fips", "year", "fips", "poverty_rate", "median_household_income"]
    ),
    protests=Of(presentation_county_protests_monthly, ["fips", "month", "events"]),
    advances=presentation_state_advances_monthly,
)
def presentation_county_profile(
    counties: gpd.GeoDataFrame, poverty: pl.DataFrame, protests: pl.DataFrame, advances: pl.DataFrame
) -> Result:
    """A county without events has 0 of them; what a dataset does not know about a county is null."""
    places = from_geopandas(counties).rename({"name": "county"})
    newest = (
        poverty.drop_nulls(["boundary_fips", "poverty_rate"])
        .sort("year", "fips")
        .group_by("boundary_fips", maintain_order=True)
        .last()
        .select("poverty_rate", "median_household_income", fips="boundary_fips", poverty_year="year")
    )
    months = protests["month"].n_unique()  # not all up to the last: an event may be announced for next year
    events = protests.group_by("fips").agg(protests=pl.col("events").sum())
    latest = (
        advances.sort("month")
        .group_by("state_code", maintain_order=True)
        .last()
        .select("state_code", state_advances_month="month", state_advances_balance="month_end_balance")
    )
    codes = {fips: code for code, fips in FIPS.items()}
    table = (
        places.with_columns(state_code=pl.col("state_fips").replace_strict(codes, default=None, return_dtype=pl.String))
        .join(newest, on="fips", how="left")
        .join(events, on="fips", how="left")
        .join(latest, on="state_code", how="left")
        .with_columns(pl.col("protests").fill_null(0), protest_months=pl.lit(months, pl.Int64))
        .with_columns(protests_per_month=pl.when(months > 0).then(pl.col("protests") / months))
    )
    shown = counties.merge(table.select("fips", "protests_per_month").to_pandas(), on="fips")
    return Result(
        table.select(list(CountyProfile.columns())),
        metadata={"map": choropleth(shown, "protests_per_month", "Protest events per month")},
    )
