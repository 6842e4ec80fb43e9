"""Poverty and income of states and counties (SAIPE), from the US Census Bureau's API."""

from datetime import timedelta
from pathlib import Path

import geopandas as gpd
import polars as pl

from etl_assets.automation.partitions import yearly
from etl_assets.datasets.us_counties import refined_us_counties
from etl_assets.quality.contract import Contract, column, geometry
from etl_assets.quality.readings import as_read, distinct_as_read, number, optional, whole
from etl_assets.sources.census import CensusSource, rows_by_header
from etl_assets.sources.extracts import read_pages
from etl_assets.stages import Dataset, Result, landing, presentation, raw, refined
from etl_assets.stages.pictures import choropleth
from etl_assets.storage.frames import from_geopandas
from etl_assets.storage.table import Partitioning

DATASET = Dataset(
    name="poverty_small_area",
    title="Poverty and income of states and counties",
    publisher="US Census Bureau",
    homepage="https://www.census.gov/programs-surveys/saipe.html",
    licence="Public domain",
    citation="US Census Bureau, Small Area Income and Poverty Estimates",
    cadence="yearly, in December",
    stale_after=timedelta(days=45),
    data_stale_after=timedelta(days=760),
    anew="0 4 1 1,7 *",
    partitions=yearly("1989-01-01"),
)

#: The contract's column for each of the API's variables.
VARIABLES = {
    "poor": "SAEPOVALL_PT",
    "poor_moe": "SAEPOVALL_MOE",
    "poverty_rate_moe": "SAEPOVRTALL_MOE",
    "poverty_rate": "SAEPOVRTALL_PT",
    "median_household_income": "SAEMHI_PT",
}
#: County codes that have changed, mapped both ways: boundaries from before 2015 have the old one, those since then the
#: new one. Counties that were split are not listed.
CROSSWALK = {"46102": "46113", "02158": "02270", "46113": "46102", "02270": "02158"}


class SmallAreaPoverty(
    Contract,
    stage="refined",
    table="small_area_poverty",
    key=["year", "fips"],
    partitioning=Partitioning("year", "year_number"),
):
    """Estimates of poverty and income, one row per state or county and year; suppressed values are null."""

    year: pl.Int32 = column("Year of the estimate", unit="year", ge=1989, le=2100)
    level: pl.String = column("Kind of area", isin=["state", "county"])
    fips: pl.String = column(
        "FIPS code: two digits for a state, five for a county", str_matches="^(0[1-9]|[1-9][0-9])([0-9]{3})?$"
    )
    name: pl.String = column("Name as the source has it")
    poor: pl.Int64 = column("People in poverty, estimate", unit="people", nullable=True, ge=0)
    poor_moe: pl.Int64 = column("Margin of error of poor, 90 % confidence", unit="people", nullable=True, ge=0)
    poverty_rate: pl.Float64 = column("Share of people in poverty, estimate", unit="%", nullable=True, ge=0, le=100)
    poverty_rate_moe: pl.Float64 = column("Margin of error of the rate", unit="percentage points", nullable=True, ge=0)
    median_household_income: pl.Int64 = column("Median household income", unit="US dollars", nullable=True, ge=0)


landing_poverty_small_area = landing(
    DATASET,
    CensusSource(
        source="census",
        live="https://api.census.gov",
        path="data/timeseries/poverty/saipe",
        variables=["NAME", *VARIABLES.values()],
        geographies={"state": {"for": "state:*"}, "county": {"for": "county:*", "in": "state:*"}},
        first_year=1989,
    ),
)


@raw(DATASET, landing_poverty_small_area, required=["NAME", "time", "state"], partition=pl.col("time") + "-01-01")
def raw_poverty_small_area(path: Path) -> pl.DataFrame:
    """One record per row of the API, named by its header; `YEAR` is `time` in some years."""
    return read_pages(path, rows_by_header)


@refined(DATASET, SmallAreaPoverty, raw=raw_poverty_small_area)
def refined_small_area_poverty(raw: pl.DataFrame) -> Result:
    """Typed; rows that say the same are merged."""
    county = optional(raw, "county")
    rates = {"poverty_rate", "poverty_rate_moe"}
    readings = {
        "year": ("time", whole(pl.col("time"), pl.Int32)),
        **{
            name: (given, (number if name in rates else whole)(optional(raw, given)))
            for name, given in VARIABLES.items()
        },
    }
    table = as_read(
        raw,
        readings,
        level=pl.when(county.is_null()).then(pl.lit("state")).otherwise(pl.lit("county")),
        fips=pl.concat_str("state", county.fill_null("")),
        name="NAME",
    )
    return Result(*distinct_as_read(table, SmallAreaPoverty.columns()))


class CountyPoverty(Contract, stage="presentation", table="county_poverty", key=["year", "fips"]):
    """Poverty and income per county and year, with the boundary; a changed code is looked up under the other, too."""

    year: pl.Int32 = column("Year of the estimate", unit="year")
    fips: pl.String = column("Five-digit FIPS code of the year")
    boundary_fips: pl.String = column("FIPS code of the boundary; null where there is none", nullable=True)
    county: pl.String = column("Name as the source has it")
    poor: pl.Int64 = column("People in poverty, estimate", unit="people", nullable=True)
    poverty_rate: pl.Float64 = column("Share of people in poverty, estimate", unit="%", nullable=True)
    poverty_rate_moe: pl.Float64 = column("Margin of error of the rate", unit="percentage points", nullable=True)
    median_household_income: pl.Int64 = column("Median household income", unit="US dollars", nullable=True)
    geometry: pl.Binary = geometry("MultiPolygon", 4326, "Boundary of the county", nullable=True)


@presentation(DATASET, CountyPoverty, poverty=refined_small_area_poverty, counties=refined_us_counties)
def presentation_county_poverty(poverty: pl.DataFrame, counties: gpd.GeoDataFrame) -> Result:
    """Counties only; those without a boundary are counted."""
    places = from_geopandas(counties[["fips", "geometry"]]).rename({"fips": "boundary_fips"})
    known = pl.col("fips").is_in(places["boundary_fips"].implode())
    table = (
        poverty.filter(level="county")
        .with_columns(boundary_fips=pl.when(known).then("fips").otherwise(pl.col("fips").replace(CROSSWALK)))
        .join(places, on="boundary_fips", how="left")
        .with_columns(boundary_fips=pl.when(pl.col("geometry").is_not_null()).then("boundary_fips"))
        .rename({"name": "county"})
        .select(list(CountyPoverty.columns()))
    )
    newest = table.filter(pl.col("year") == pl.col("year").max()).select("boundary_fips", "poverty_rate")
    shown = counties.merge(newest.to_pandas(), left_on="fips", right_on="boundary_fips", how="left")
    return Result(
        table,
        metadata={
            "map": choropleth(shown, "poverty_rate", "Poverty rate of the newest year, %"),
            "counties_without_boundary": table["boundary_fips"].null_count(),
        },
    )
