"""Life expectancy at birth, one of the WHO's indicators, as its readers ask for it."""

import polars as pl

from etl_assets.datasets.gho import refined_health_indicators
from etl_assets.quality.contract import Contract, column
from etl_assets.stages import Dataset, Result, presentation
from etl_assets.stages.over_time import with_changes, yearly_lines
from etl_assets.storage.configured import identities
from etl_assets.storage.hashes import row_hash

DATASET = Dataset(
    name="life_expectancy",
    title="Life expectancy at birth",
    publisher="World Health Organization",
    homepage="https://www.who.int/data/gho/data/indicators/indicator-details/GHO/life-expectancy-at-birth-(years)",
    licence="CC BY-NC-SA 3.0 IGO",
    citation="World Health Organization, Global Health Observatory",
    cadence="with the indicator in gho",
)
INDICATOR = "WHOSIS_000001"


class LifeExpectancyByCountry(
    Contract, stage="presentation", table="life_expectancy_by_country", key=["country_code", "sex", "year"]
):
    """Life expectancy at birth per country, year and sex, with its changes and the country's rank in its region."""

    country_code: pl.String = column("ISO 3166-1 alpha-3 code")
    country: pl.String = column("Name of the country", nullable=True)
    sex: pl.String = column("both, male or female")
    year: pl.Int32 = column("Year", unit="year")
    region: pl.String = column("WHO region", nullable=True)
    value: pl.Float64 = column("Life expectancy at birth", unit="years")
    low: pl.Float64 = column("Lower end of the uncertainty interval", unit="years", nullable=True)
    high: pl.Float64 = column("Upper end of the uncertainty interval", unit="years", nullable=True)
    change_1_year: pl.Float64 = column("Change since the year before", unit="years", nullable=True)
    change_10_years: pl.Float64 = column("Change since ten years before", unit="years", nullable=True)
    rank_in_region: pl.UInt32 = column("Rank in the region; 1 is the longest life", sql="bigint", nullable=True)


@presentation(DATASET, LifeExpectancyByCountry, indicators=refined_health_indicators)
def presentation_life_expectancy_by_country(indicators: pl.DataFrame) -> Result:
    """Countries only; a change needs both years."""
    values = _by_sex(indicators).drop_nulls(["value", "sex"]).select(
        "country", "sex", "year", "value", "low", "high", country_code="spatial_code", region="parent_region"
    )  # fmt: skip
    rank = pl.col("value").rank("min", descending=True).over("region", "sex", "year")
    table = with_changes(values, "value", by=["country_code", "sex"]).with_columns(
        rank_in_region=pl.when(pl.col("region").is_not_null()).then(rank)
    )
    title = "Median life expectancy at birth by region, years"
    return Result(
        table.select(list(LifeExpectancyByCountry.columns())),
        metadata={"over_time": yearly_lines(table.filter(sex="both"), "region", "value", title)},
    )


def _by_sex(indicators: pl.DataFrame) -> pl.DataFrame:
    """The indicator of countries by sex alone: rows with further dimensions, such as cities, cover some people only."""
    return indicators.filter(indicator=INDICATOR, spatial_type="COUNTRY", dim2="", dim3="")


#: The countries that the first pipeline had, with the names that it gave them.
FIRST_COUNTRIES = {
    "ZAF": "South Africa", "BWA": "Botswana", "NAM": "Namibia",
    "ZWE": "Zimbabwe", "MOZ": "Mozambique", "LSO": "Lesotho",
}  # fmt: skip


class LifeExpectancyAtBirth(Contract, stage="presentation", table="life_expectancy_at_birth", key=["id"]):
    """Life expectancy at birth in six countries, in the shape that the first pipeline's readers know."""

    id: pl.Int64 = column("Row id, assigned once per country, year and sex", ge=1)
    indicatorcode: pl.String = column("Code of the indicator")
    spatialdim: pl.String = column("ISO 3166-1 alpha-3 code of the country")
    parentlocationcode: pl.String = column("Code of the WHO region", nullable=True)
    timedimtype: pl.String = column("Always YEAR")
    parentlocation: pl.String = column("WHO region", nullable=True)
    dim1type: pl.String = column("Always SEX")
    timedim: pl.Int32 = column("Year", unit="year")
    dim1: pl.String = column("Code of the sex")
    numericvalue: pl.Float64 = column("Life expectancy at birth", unit="years", nullable=True)
    comments: pl.String = column("Comments; the source has none", nullable=True)
    date: pl.Datetime("us", "UTC") = column("When the source published the indicator", nullable=True)
    timedimensionvalue: pl.String = column("Year as text")
    timedimensionbegin: pl.Date = column("First day of the year")
    timedimensionend: pl.Date = column("Last day of the year")
    country: pl.String = column("Name of the country")
    sex: pl.String = column("both, male or female", nullable=True)
    transformed_epoch: pl.Int64 = column("Time of publication as seconds since 1970", unit="s", nullable=True)
    created_at: pl.Datetime("us", "UTC") = column("Same as `date`, so that equal rows have equal values", nullable=True)


@presentation(DATASET, LifeExpectancyAtBirth, indicators=refined_health_indicators)
def presentation_life_expectancy_at_birth(indicators: pl.DataFrame) -> pl.DataFrame:
    """Ids are given in the order of country, year and sex, and stay."""
    rows = _by_sex(indicators).filter(pl.col("spatial_code").is_in(list(FIRST_COUNTRIES)))
    rows = rows.sort("spatial_code", "year", "dim1")
    keys = row_hash(rows, ["spatial_code", "year", "dim1"])
    return rows.select(
        id=identities("life_expectancy_at_birth").allocate(keys),
        indicatorcode="indicator",
        spatialdim="spatial_code",
        parentlocationcode="parent_code",
        timedimtype=pl.lit("YEAR"),
        parentlocation="parent_region",
        dim1type=pl.lit("SEX"),
        timedim="year",
        dim1="dim1",
        numericvalue="value",
        comments=pl.lit(None, pl.String),
        date="published_at",
        timedimensionvalue=pl.col("year").cast(pl.String),
        timedimensionbegin=pl.date("year", 1, 1),
        timedimensionend=pl.date("year", 12, 31),
        country=pl.col("spatial_code").replace(FIRST_COUNTRIES),
        sex="sex",
        transformed_epoch=pl.col("published_at").dt.epoch("s"),
        created_at="published_at",
    )
