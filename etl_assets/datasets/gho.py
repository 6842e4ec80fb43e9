"""Health indicators of the World Health Organization's Global Health Observatory (GHO)."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl

from etl_assets.automation.partitions import yearly
from etl_assets.datasets.gho_countries import refined_gho_countries
from etl_assets.quality.audit import unreadable
from etl_assets.quality.contract import Contract, column
from etl_assets.sources.odata import ODataSource
from etl_assets.sources.paging import read_pages
from etl_assets.stages import Dataset, Result, landing, presentation, raw, refined
from etl_assets.stages.pictures import lines
from etl_assets.storage.configured import identities
from etl_assets.storage.frames import row_text, text_hash
from etl_assets.storage.table import Partitioning


@dataclass(frozen=True)
class Indicator:
    """An indicator to extract: its title, an OData filter, and whether it is extracted at all."""

    code: str
    title: str
    filter: str = ""
    enabled: bool = True


#: Add an indicator here; it needs no code.
GHO_INDICATORS = [Indicator("WHOSIS_000001", "Life expectancy at birth", "SpatialDimType ne 'NONE'")]
ENABLED = {indicator.code: indicator for indicator in GHO_INDICATORS if indicator.enabled}

DATASET = Dataset(
    name="gho",
    title="Health indicators (WHO GHO)",
    publisher="World Health Organization",
    homepage="https://www.who.int/data/gho",
    licence="CC BY-NC-SA 3.0 IGO",
    citation="World Health Organization, Global Health Observatory",
    cadence="an indicator is published again as a whole, about yearly",
    stale_after=timedelta(days=550),
    data_stale_after=timedelta(days=1900),
    partitions=yearly("1900-01-01"),
)
SEXES = {"SEX_BTSX": "both", "SEX_MLE": "male", "SEX_FMLE": "female"}


class HealthIndicators(
    Contract,
    stage="refined",
    table="health_indicators",
    key=["indicator", "spatial_type", "spatial_code", "year", "dim1", "dim2", "dim3"],
    partitioning=Partitioning("year", "year_number"),
):
    """Values of indicators, one row per indicator, place, year and dimensions; the source's Id is no key."""

    indicator: pl.String = column("Code of the indicator")
    title: pl.String = column("Title of the indicator")
    spatial_type: pl.String = column("COUNTRY, REGION, WORLDBANKINCOMEGROUP or GLOBAL")
    spatial_code: pl.String = column("Code of the place: for a country, ISO 3166-1 alpha-3")
    country: pl.String = column("Name of the country, where the place is one", nullable=True)
    year: pl.Int32 = column("Year of the value", unit="year", ge=1900, le=2100)
    dim1: pl.String = column("First dimension; empty where there is none")
    dim2: pl.String = column("Second dimension; empty where there is none")
    dim3: pl.String = column("Third dimension; empty where there is none")
    sex: pl.String = column("Sex, where a dimension is one", nullable=True, isin=list(SEXES.values()))
    value: pl.Float64 = column("Value", nullable=True)
    low: pl.Float64 = column("Lower end of the uncertainty interval", nullable=True)
    high: pl.Float64 = column("Upper end of the uncertainty interval", nullable=True)
    value_given: pl.String = column("Value as the source shows it, with its rounding", nullable=True)
    numeric_given: pl.String = column("Value as the source wrote it, with its digits", nullable=True)
    parent_code: pl.String = column("Code of the region that the place is in", nullable=True)
    parent_region: pl.String = column("Region that the place is in", nullable=True)
    published_at: pl.Datetime("us", "UTC") = column("When the source published the indicator", nullable=True)


landing_gho = landing(
    DATASET,
    ODataSource(
        source="who_gho",
        live="https://ghoapi.azureedge.net",
        path="api",
        sets={code: indicator.filter for code, indicator in ENABLED.items()},
        order="SpatialDimType,SpatialDim,TimeDim,Dim1,Dim2,Dim3",
        stamp="Date",
    ),
)


@raw(
    DATASET,
    landing_gho,
    required=["IndicatorCode", "SpatialDimType", "SpatialDim", "TimeDim", "NumericValue"],
    partition=pl.col("TimeDim") + "-01-01",
    unstable=["Id"],
)
def raw_gho(path: Path) -> pl.DataFrame:
    """The rows of all pages, numbers as the source wrote them."""
    return read_pages(path, lambda page: page["value"])


@refined(DATASET, HealthIndicators, raw=raw_gho, countries=refined_gho_countries)
def refined_health_indicators(raw: pl.DataFrame, countries: pl.DataFrame) -> Result:
    """Typed; rows that are equal in all but the source's Id are merged."""
    rows = raw.unique(["_partition", "_row_hash"], keep="first", maintain_order=True)

    def text(name: str) -> pl.Expr:
        return pl.col(name) if name in rows.columns else pl.lit(None, pl.String)

    def dimension(n: int) -> pl.Expr:
        """The value of a dimension; older answers leave out the type that newer ones put before it."""
        value, prefix = text(f"Dim{n}"), text(f"Dim{n}Type") + "_"
        return (
            pl.when(value.str.starts_with(prefix)).then(value).otherwise(prefix + value).fill_null(value).fill_null("")
        )

    readings = {
        "year": ("TimeDim", pl.col("TimeDim").cast(pl.Int32, strict=False)),
        **{
            name: (source, text(source).cast(pl.Float64, strict=False))
            for name, source in (("value", "NumericValue"), ("low", "Low"), ("high", "High"))
        },
    }
    sexes = [dimension(n).replace_strict(SEXES, default=None, return_dtype=pl.String) for n in (1, 2, 3)]
    titles = {code: indicator.title for code, indicator in ENABLED.items()}
    table = rows.select(
        *(reading.alias(name) for name, (_, reading) in readings.items()),
        indicator="IndicatorCode",
        title=pl.col("IndicatorCode").replace(titles),
        spatial_type="SpatialDimType",
        spatial_code="SpatialDim",
        dim1=dimension(1),
        dim2=dimension(2),
        dim3=dimension(3),
        sex=pl.coalesce(sexes),
        value_given=text("Value"),
        numeric_given=text("NumericValue"),
        parent_code=text("ParentLocationCode"),
        parent_region=text("ParentLocation"),
        published_at=_moment(text("Date")),
        _problems=unreadable({n: r for n, r in readings.items() if r[0] in rows.columns}),
        **{c: pl.col(c) for c in rows.columns if c.startswith("_")},
    )
    names = countries.select(spatial_code="country_code", country="country")
    table = table.join(names, on="spatial_code", how="left", maintain_order="left")
    return Result(table, merged=raw.join(rows, on="_source_row", how="anti"))


def _moment(text: pl.Expr) -> pl.Expr:
    """A moment of any offset, with fractions of a second or without; one without an offset is UTC."""
    whole = pl.when(text.str.contains(r"(Z|[+-]\d\d:\d\d)$")).then(text).otherwise(text + "Z")
    return whole.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)


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
    rank_in_region: pl.UInt32 = column("Rank in the region, the longest life first", sql="bigint", nullable=True)


@presentation(DATASET, LifeExpectancyByCountry, indicators=refined_health_indicators)
def presentation_life_expectancy_by_country(indicators: pl.DataFrame) -> Result:
    """Countries only; a change needs both years."""
    values = indicators.filter(indicator="WHOSIS_000001", spatial_type="COUNTRY").drop_nulls(["value", "sex"]).select(
        "country", "sex", "year", "value", "low", "high", country_code="spatial_code", region="parent_region"
    )  # fmt: skip
    by = ["country_code", "sex", "year"]
    for years in (1, 10):
        earlier = values.select("country_code", "sex", pl.col("year") + years, earlier="value")
        name = f"change_{years}_year{'s' * (years > 1)}"
        values = values.join(earlier, on=by, how="left").with_columns((pl.col("value") - pl.col("earlier")).alias(name))
        values = values.drop("earlier")
    rank = pl.col("value").rank("min", descending=True).over("region", "sex", "year")
    table = values.with_columns(rank_in_region=pl.when(pl.col("region").is_not_null()).then(rank))
    shown = table.filter(sex="both").group_by("region", "year").agg(pl.col("value").median())
    wide = shown.drop_nulls("region").pivot("region", index="year", values="value").sort("year")
    columns = [c for c in wide.columns if c != "year"]
    return Result(
        table.select(list(LifeExpectancyByCountry.columns())),
        metadata={"over_time": lines(wide, "year", columns, "Median life expectancy at birth by region, years")},
    )


#: The countries that the first pipeline had, with the names that it gave them.
FIRST_COUNTRIES = {
    "ZAF": "South Africa", "BWA": "Botswana", "NAM": "Namibia",
    "ZWE": "Zimbabwe", "MOZ": "Mozambique", "LSO": "Lesotho",
}  # fmt: skip


class LifeExpectancyAtBirth(Contract, stage="presentation", table="life_expectancy_at_birth", key=["id"]):
    """Life expectancy at birth in six countries, in the shape that the first pipeline's readers know."""

    id: pl.Int64 = column("Row id, given once to a country, year and sex", ge=1)
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
    transformed_epoch: pl.Int64 = column("The publication as seconds since 1970", unit="s", nullable=True)
    created_at: pl.Datetime("us", "UTC") = column("As `date`: the same rows have the same value", nullable=True)


@presentation(DATASET, LifeExpectancyAtBirth, indicators=refined_health_indicators)
def presentation_life_expectancy_at_birth(indicators: pl.DataFrame) -> pl.DataFrame:
    """Ids are given in the order of country, year and sex, and stay."""
    rows = indicators.filter(
        (pl.col("indicator") == "WHOSIS_000001") & pl.col("spatial_code").is_in(list(FIRST_COUNTRIES))
    ).sort("spatial_code", "year", "dim1")
    keys = text_hash(rows.select(row_text(["spatial_code", "year", "dim1"])).to_series())
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
