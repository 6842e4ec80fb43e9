"""US counties: boundaries and codes, the places that other datasets are located in."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandera.polars as pa
import polars as pl
import shapely

from etl_assets.quality.contract import Contract, column, geometry
from etl_assets.quality.readings import as_read, distinct, number, optional
from etl_assets.sources.files import WebFile
from etl_assets.sources.records import read_geojson
from etl_assets.stages import Dataset, Result, landing, raw, refined
from etl_assets.stages.pictures import choropleth
from etl_assets.storage.frames import wkb

DATASET = Dataset(
    name="us_counties",
    title="US counties",
    publisher="US Census Bureau",
    homepage="https://www.census.gov/geographies/mapping-files/time-series/geo/cartographic-boundary.html",
    licence="Public domain",
    citation="US Census Bureau, Cartographic Boundary Files",
    cadence="yearly; the file is replaced as a whole",
)

#: Codes that came into force in a year: a file that has one is of that year or later.
CODES_SINCE = {"46102": 2015, "02158": 2015, "02063": 2019, "02066": 2019, "09110": 2022}
OLDEST_VINTAGE = 2010


class UsCounties(Contract, stage="refined", table="us_counties", key=["fips"]):
    """US counties and their equivalents, one row per county, with the boundary at 1:500,000."""

    fips: pl.String = column("Five-digit FIPS code of the county", str_matches=r"^\d{5}$")
    state_fips: pl.String = column("Two-digit FIPS code of the state", str_matches=r"^\d{2}$")
    name: pl.String = column("Name without its legal type; hundreds of names belong to more than one county")
    legal_type: pl.String = column("County, Parish, Borough, city, …", nullable=True)
    census_area: pl.Float64 = column("Land area as the Census Bureau has it", unit="square miles", nullable=True, ge=0)
    vintage: pl.Int32 = column("Year of the file's county codes", unit="year", ge=OLDEST_VINTAGE, le=2100)
    geometry: pl.Binary = geometry("MultiPolygon", 4326, "Boundary, valid")

    @pa.dataframe_check(name="fips_begins_with_state_fips")
    def _in_state(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("fips").str.slice(0, 2) == pl.col("state_fips"))


landing_us_counties = landing(
    DATASET,
    WebFile(
        source="us_counties",
        file="counties.geojson",
        live="https://eric.clst.org/assets/wiki/uploads/Stuff/gz_2010_us_050_00_500k.json",
    ),
)


@raw(DATASET, landing_us_counties, required=["STATE", "NAME", "geometry"])
def raw_us_counties(path: Path) -> pl.DataFrame:
    """One record per feature; the geometry is GeoJSON text."""
    return read_geojson(path)


@refined(DATASET, UsCounties, raw=raw_us_counties)
def refined_us_counties(raw: pl.DataFrame) -> Result:
    """Typed, with valid boundaries; features that are equal are merged."""
    records, merged = distinct(raw)
    # The Census Bureau's own features have no id; other publishers have made one from these two codes.
    made = pl.col("STATE").str.zfill(2) + optional(records, "COUNTY").str.zfill(3)
    fips = records.select(fips=pl.coalesce(pl.col("id").str.zfill(5), made))["fips"]
    vintage = max([OLDEST_VINTAGE, *(year for code, year in CODES_SINCE.items() if code in fips)])
    shapes = wkb(boundaries(records["geometry"]))
    counties = as_read(
        records,
        {"geometry": ("geometry", pl.lit(shapes))},
        fips=pl.lit(fips),
        state_fips=pl.col("STATE").str.zfill(2),
        name="NAME",
        legal_type=optional(records, "LSAD"),
        census_area=number(optional(records, "CENSUSAREA")),  # unreadable, it is no reason to lose a boundary
        vintage=pl.lit(vintage, pl.Int32),
    )
    shown = gpd.GeoDataFrame(
        {"square miles": counties["census_area"].to_numpy()},
        geometry=shapely.from_wkb(counties["geometry"].to_numpy()),
        crs=4326,
    )
    return Result(counties, merged, {"map": choropleth(shown, "square miles", "Area of the counties")})


def boundaries(geojson: pl.Series) -> np.ndarray:
    """GeoJSON polygons as valid MultiPolygons; anything without a polygon becomes None."""
    shapes = shapely.from_geojson(geojson.to_numpy(), on_invalid="ignore")
    # A self-touching ring becomes the polygons that it encloses; left-over lines and points are dropped.
    shapes = np.where(shapely.is_valid(shapes), shapes, shapely.make_valid(shapes, method="structure"))
    parts, owner = shapely.get_parts(shapes, return_index=True)
    parts, nested = shapely.get_parts(parts, return_index=True)
    polygonal = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    result = np.full(len(shapes), None, dtype=object)
    if polygonal.any():
        shapely.multipolygons(parts[polygonal], indices=owner[nested][polygonal], out=result)
    return result


def locate(points: pl.Series, counties: gpd.GeoDataFrame) -> pl.Series:
    """The FIPS code of the county that contains each point (WKB); null for a missing point and for one outside all.

    Only distinct points are looked up, since events share the centroids of their localities. A point on a border is
    in neither county, as in PostGIS' ST_Contains; where boundaries overlap, the lowest code counts.
    """
    distinct = points.drop_nulls().unique()
    ordered = counties.sort_values("fips")
    shapes = shapely.from_wkb(distinct.to_numpy())
    found, county = shapely.STRtree(ordered.geometry.values).query(shapes, predicate="within")
    first = pl.DataFrame({"row": found, "county": county}).group_by("row").agg(pl.col("county").min())
    codes = pl.Series(ordered["fips"].to_list(), dtype=pl.String)
    known = pl.DataFrame({"point": distinct[first["row"]], "fips": codes[first["county"]]})
    return pl.DataFrame({"point": points}).join(known, on="point", how="left", maintain_order="left")["fips"]
