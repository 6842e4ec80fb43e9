"""The countries of the World Health Organization's Global Health Observatory, with their names and regions."""

from pathlib import Path

import polars as pl

from etl_assets.quality.contract import Contract, column
from etl_assets.quality.readings import distinct_as_read, optional
from etl_assets.sources.extracts import read_pages
from etl_assets.sources.odata import ODataSource
from etl_assets.stages import Dataset, Result, landing, raw, refined

DATASET = Dataset(
    name="gho_countries",
    title="Countries of the WHO GHO",
    publisher="World Health Organization",
    homepage="https://www.who.int/data/gho",
    licence="CC BY-NC-SA 3.0 IGO",
    citation="World Health Organization, Global Health Observatory",
    cadence="seldom",
)


class GhoCountries(Contract, stage="refined", table="gho_countries", key=["country_code"]):
    """Countries and their WHO regions, one row per country."""

    country_code: pl.String = column("ISO 3166-1 alpha-3 code", str_matches=r"^[A-Z0-9_]{3,}$")
    country: pl.String = column("Name")
    region_code: pl.String = column("Code of the WHO region", nullable=True)
    region: pl.String = column("WHO region", nullable=True)


landing_gho_countries = landing(
    DATASET,
    ODataSource(
        source="who_gho",
        live="https://ghoapi.azureedge.net",
        path="api",
        sets={"DIMENSION/COUNTRY/DimensionValues": ""},
        order="Code",
    ),
)


@raw(DATASET, landing_gho_countries, required=["Code", "Title"])
def raw_gho_countries(path: Path) -> pl.DataFrame:
    """The values of the dimension COUNTRY."""
    return read_pages(path, lambda page: page["value"])


@refined(DATASET, GhoCountries, raw=raw_gho_countries)
def refined_gho_countries(raw: pl.DataFrame) -> Result:
    """Named; rows that say the same are merged."""
    table = raw.select(
        pl.selectors.starts_with("_"),
        country_code="Code",
        country="Title",
        region_code=optional(raw, "ParentCode"),
        region=optional(raw, "ParentTitle"),
    )
    return Result(*distinct_as_read(table, GhoCountries.columns()))
