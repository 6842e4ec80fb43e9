"""Poverty of the United States by race and Hispanic origin since 1959 (histpov2), from the US Census Bureau's API."""

from datetime import timedelta
from pathlib import Path

import polars as pl

from etl_assets.automation.partitions import yearly
from etl_assets.quality.audit import unreadable
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.readings import distinct_as_read, number, whole
from etl_assets.sources.census import CensusSource, rows_by_header
from etl_assets.sources.extracts import read_pages
from etl_assets.stages import Dataset, Result, landing, presentation, raw, refined
from etl_assets.stages.over_time import with_changes, yearly_lines
from etl_assets.storage.table import Partitioning

DATASET = Dataset(
    name="poverty_national",
    title="Poverty of the United States by race and Hispanic origin",
    publisher="US Census Bureau",
    homepage="https://www.census.gov/data/tables/time-series/demo/income-poverty/historical-poverty-people.html",
    licence="Public domain",
    citation="US Census Bureau, Current Population Survey, Historical Poverty Tables",
    cadence="yearly, in September",
    stale_after=timedelta(days=45),
    data_stale_after=timedelta(days=700),
    anew="0 4 1 1,7 *",
    partitions=yearly("1959-01-01"),
)

GROUPS = {
    "1": "All", "2": "White alone", "3": "White", "4": "White alone, not Hispanic", "5": "White, not Hispanic",
    "6": "Black alone or in combination", "7": "Black alone", "8": "Black", "9": "Asian alone or in combination",
    "10": "Asian alone", "11": "Asian and Pacific Islander", "12": "Hispanic, of any race",
}  # fmt: skip
#: The only groups whose people are in no other group, except those that contain the whole group.
NOT_OVERLAPPING = ["4", "5"]
#: Two years were published by two methods; the API gives these in this order, as the first publications show: 14.5 % of
#: all in 2013 (P60-249), and 8.7 % of the white, not Hispanic, in 2017 (P60-263).
METHODS = {2013: ["redesigned questions", "traditional questions"], 2017: ["legacy processing", "updated processing"]}


class NationalPoverty(
    Contract,
    stage="refined",
    table="national_poverty",
    key=["year", "group_code", "method"],
    partitioning=Partitioning("year", "year_number"),
):
    """Share of people in poverty, one row per year, group and method; the groups overlap and do not add up."""

    year: pl.Int32 = column("Year", unit="year", ge=1959, le=2100)
    group_code: pl.Int32 = column("The API's code of the group", isin=[int(code) for code in GROUPS])
    group: pl.String = column("Race or Hispanic origin", isin=list(GROUPS.values()))
    is_overlapping: pl.Boolean = column("Whether it shares people with another group that does not contain it")
    method: pl.String = column("`published`, or one of the two methods of 2013 and 2017")
    poverty_rate: pl.Float64 = column("Share of the group's people in poverty", unit="%", ge=0, le=100)


landing_poverty_national = landing(
    DATASET,
    CensusSource(
        source="census",
        live="https://api.census.gov",
        path="data/timeseries/poverty/histpov2",
        variables=["NAME", "PCTPOV", "YEAR", "RACE"],
        geographies={"us": {"for": "us:*"}},
        first_year=1959,
    ),
)


@raw(DATASET, landing_poverty_national, required=["PCTPOV", "RACE", "time"], partition=pl.col("time") + "-01-01")
def raw_poverty_national(path: Path) -> pl.DataFrame:
    """One record per row of the API, named by its header."""
    return read_pages(path, rows_by_header)


@refined(DATASET, NationalPoverty, raw=raw_poverty_national)
def refined_national_poverty(raw: pl.DataFrame) -> Result:
    """Typed and labelled; rows that say the same are merged, except where two methods may give the same number."""
    year, rate = whole(pl.col("time"), pl.Int32), number(pl.col("PCTPOV"))
    nth, values = (count.over("time", "RACE") for count in (pl.int_range(pl.len()), pl.len()))
    has_methods = year.is_in(list(METHODS)).fill_null(False)
    method: pl.Expr = pl.when(~has_methods).then(pl.lit("published"))
    for published, names in METHODS.items():
        for position, name in enumerate(names):
            method = pl.when((year == published) & (nth == position)).then(pl.lit(name)).otherwise(method)
    found = values.cast(pl.String) + " values of the year, and nothing says which method each is of"
    undecided = pl.struct(check=pl.lit("two_methods"), column=pl.lit("method"), value=found)
    table = raw.sort("_source_row").select(
        pl.selectors.starts_with("_"),
        year=year,
        group_code=pl.col("RACE").cast(pl.Int32, strict=False),
        group=pl.col("RACE").replace_strict(GROUPS, default=None, return_dtype=pl.String),
        is_overlapping=~pl.col("RACE").is_in(NOT_OVERLAPPING),
        method=method,
        poverty_rate=rate,
        _problems=unreadable({"poverty_rate": ("PCTPOV", rate), "year": ("time", year)}).list.concat(
            pl.concat_list(pl.when(has_methods & (values != 2)).then(undecided)).list.drop_nulls()
        ),
    )
    is_single = pl.col("method").eq_missing("published")
    rows, merged = distinct_as_read(table.filter(is_single), NationalPoverty.columns())
    return Result(pl.concat([rows, table.filter(~is_single)]), merged)


class PovertyTrends(Contract, stage="presentation", table="poverty_trends", key=["group_code", "method", "year"]):
    """Poverty of each group over the years, with the change since the year before and since ten years before."""

    group_code: pl.Int32 = column("The API's code of the group")
    group: pl.String = column("Race or Hispanic origin")
    is_overlapping: pl.Boolean = column("Whether it shares people with another group that does not contain it")
    method: pl.String = column("`published`, or one of the two methods of 2013 and 2017")
    year: pl.Int32 = column("Year", unit="year")
    poverty_rate: pl.Float64 = column("Share of the group's people in poverty", unit="%")
    change_1_year: pl.Float64 = column("Change since the year before", unit="percentage points", nullable=True)
    change_10_years: pl.Float64 = column("Change since ten years before", unit="percentage points", nullable=True)


@presentation(DATASET, PovertyTrends, poverty=refined_national_poverty)
def presentation_poverty_trends(poverty: pl.DataFrame) -> Result:
    """Changes are between years published by one method only; a year of two methods is compared with no other."""
    is_single = pl.col("method") == "published"
    single = with_changes(poverty.filter(is_single), "poverty_rate", by=["group_code"])
    table = pl.concat([single, poverty.filter(~is_single)], how="diagonal")
    shown = single.filter(pl.col("group_code").is_in([1, 7, 12]))
    return Result(
        table.select(list(PovertyTrends.columns())).with_columns(pl.col("^change_.*$").round(1)),
        metadata={"over_time": yearly_lines(shown, "group", "poverty_rate", "People in poverty, %")},
    )
