"""Health indicators of the World Health Organization's Global Health Observatory (GHO)."""

import math
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import pandera.polars as pa
import polars as pl

from etl_assets.automation.partitions import yearly
from etl_assets.datasets.gho_countries import refined_gho_countries
from etl_assets.quality.contract import Contract, column
from etl_assets.quality.readings import as_read, distinct_as_read, moment, number, optional, whole
from etl_assets.quality.ui_table import ui_table
from etl_assets.sources.extracts import read_pages
from etl_assets.sources.odata import ODataSource
from etl_assets.stages import Dataset, Result, landing, raw, refined
from etl_assets.storage.table import Partitioning


@dataclass(frozen=True)
class Indicator:
    """An indicator to extract: its title, an OData filter, and whether it is extracted at all.

    It is asked for again once `freshness_days` have passed since the last time; with 0, every time.
    """

    code: str
    title: str
    filter: str = ""
    enabled: bool = True
    freshness_days: int = 0
    #: The range that its values can have at all: any other is not a value of it.
    least: float = -math.inf
    most: float = math.inf


#: Add an indicator here; it needs no code.
GHO_INDICATORS = [Indicator("WHOSIS_000001", "Life expectancy at birth", "SpatialDimType ne 'NONE'", least=0, most=130)]
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
    spatial_code: pl.String = column("Code of the place: for a country, ISO 3166-1 alpha-3", str_matches=r"\S")
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

    @pa.dataframe_check(name="low_is_not_above_high")
    def _interval(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("low") <= pl.col("high")).fill_null(True))

    @pa.dataframe_check(name="value_is_one_of_the_indicator")
    def _value(cls, data: pa.PolarsData) -> pl.LazyFrame:
        least, most = (
            pl.col("indicator").replace_strict(
                {code: getattr(indicator, end) for code, indicator in ENABLED.items()}, default=None
            )
            for end in ("least", "most")
        )
        return data.lazyframe.select(pl.col("value").is_between(least, most).fill_null(True))


landing_gho = landing(
    DATASET,
    ODataSource(
        source="who_gho",
        live="https://ghoapi.azureedge.net",
        path="api",
        sets={code: indicator.filter for code, indicator in ENABLED.items()},
        freshness_days={code: indicator.freshness_days for code, indicator in ENABLED.items()},
        order="SpatialDim,TimeDim,Dim1,Dim2,Dim3",
        stamp="Date",
    ),
    metadata={"indicators": ui_table([asdict(indicator) for indicator in GHO_INDICATORS])},
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
    """Typed; rows that say the same are merged, however they are written."""

    def dimension(n: int) -> pl.Expr:
        """The value of a dimension; older answers leave out the type that newer ones put before it."""
        value, kind = (optional(raw, name).str.strip_chars() for name in (f"Dim{n}", f"Dim{n}Type"))
        value, prefix = pl.when(value != "").then(value), kind + "_"
        typed = pl.when(value.str.starts_with(prefix)).then(value).otherwise(prefix + value)
        return typed.fill_null(value).fill_null("")

    numbers = {"value": "NumericValue", "low": "Low", "high": "High"}
    readings = {
        "year": ("TimeDim", whole(pl.col("TimeDim"), pl.Int32)),
        **{name: (given, number(optional(raw, given))) for name, given in numbers.items()},
        "published_at": ("Date", moment(optional(raw, "Date"))),
    }
    sexes = [dimension(n).replace_strict(SEXES, default=None, return_dtype=pl.String) for n in (1, 2, 3)]
    for n, sex in enumerate(sexes, 1):  # readers could not ask for an unknown one
        is_known = ~dimension(n).str.starts_with("SEX_") | sex.is_not_null()
        readings[f"dim{n}"] = (f"Dim{n}", pl.when(is_known).then(dimension(n)))
    table = as_read(
        raw,
        readings,
        indicator="IndicatorCode",
        title=pl.col("IndicatorCode").replace({code: indicator.title for code, indicator in ENABLED.items()}),
        spatial_type=pl.col("SpatialDimType").str.strip_chars(),
        spatial_code=pl.col("SpatialDim").str.strip_chars(),
        sex=pl.coalesce(sexes),
        value_given=optional(raw, "Value"),
        numeric_given=optional(raw, "NumericValue"),
        parent_code=optional(raw, "ParentLocationCode"),
        parent_region=optional(raw, "ParentLocation"),
    )
    names = countries.select(spatial_type=pl.lit("COUNTRY"), spatial_code="country_code", country="country")
    table = table.join(names, on=["spatial_type", "spatial_code"], how="left", maintain_order="left")
    return Result(*distinct_as_read(table, [c for c in HealthIndicators.columns() if not c.endswith("_given")]))
