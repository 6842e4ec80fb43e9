"""A plain script of the usual kind that does what the project's path does: the peer in the benchmark `pipeline`.

It reads the file as pandas reads files, makes points by `apply`, locates them by `geopandas.sjoin`, and writes the
table with `to_postgis`, as scripts of this kind are written when nobody has yet waited for them. It fills a table with
the columns of `refined.protest_events` and makes its indexes. Ids and row hashes are its own, and lists arrive in the
table as `to_postgis` writes them, as text.

It leaves out, to its own advantage: the copy of the file as it was received, the table of raw records, the lake, the
audit against a contract and the quarantine, comments and provenance columns, ids that stay the same, replacing days
(it replaces the whole table), and any bookkeeping.
"""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas as gpd
import pandas as pd
import sqlalchemy
from shapely.geometry import Point

from benchmarks.measure import Stopwatch

KEY = ["date", "locality", "state", "location", "title", "event_type", "organizations"]
COLUMNS = [
    *("event_id", "event_date", "locality", "state", "location", "title", "event_type", "event_types"),
    *("organizations", "ordinal", "participants", "claims", "issues", "valence", "online", "is_announced"),
    *("size_low", "size_mean", "size_high", "arrests", "participant_injuries", "police_injuries"),
    *("sources", "source_count", "county_given", "fips_given", "county_located", "fips_located", "fips"),
    *("agreement", "lat", "lon", "row_hash", "geometry"),
]


def point(row: pd.Series) -> Point | None:
    """The event's point, if it has one."""
    return None if pd.isna(row["lat"]) or pd.isna(row["lon"]) else Point(row["lon"], row["lat"])


def types(text: object) -> list[str]:
    """The event's types as a list."""
    return list(dict.fromkeys(part.strip().lower() for part in text.split(";"))) if isinstance(text, str) else []


def sources(row: pd.Series) -> list[str]:
    """The event's sources as a list."""
    return list(dict.fromkeys(value for value in row if isinstance(value, str)))


def agreement(row: pd.Series) -> str:
    """How the county that the point lies in and the one that the file names agree."""
    if row["geometry"] is None:
        return "no_point"
    if not isinstance(row["fips_located"], str):
        return "outside"
    return "same" if row["fips_located"] == row["fips_given"] else "differs"


def main(run: str, events_file: str, counties_file: str, url: str, published: str) -> None:
    """File → table, with the counties at hand."""
    counties = gpd.read_file(counties_file)[["id", "NAME", "geometry"]].to_crs(4326)
    counties = counties.rename(columns={"id": "fips_located", "NAME": "county_located"})
    with Stopwatch(Path(run)) as watch:
        load(events_file, counties, url, published, watch)


def load(events_file: str, counties: gpd.GeoDataFrame, url: str, published: str, watch: Stopwatch) -> None:
    """The script itself."""
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))

    df = pd.read_csv(events_file, low_memory=False)
    df = df.drop_duplicates()
    df["row_hash"] = pd.util.hash_pandas_object(df, index=False).astype("int64")
    df["ordinal"] = df.groupby(KEY, dropna=False).cumcount() + 1
    df["event_date"] = pd.to_datetime(df["date"])
    df["is_announced"] = df["event_date"] > pd.Timestamp(published)
    df["event_types"] = df["event_type"].apply(types)
    df["fips_given"] = df["fips_code"].apply(lambda code: None if pd.isna(code) else str(int(code)).zfill(5))
    df["sources"] = df[[name for name in df.columns if name.startswith("source")]].apply(sources, axis=1)
    df["source_count"] = df["sources"].apply(len)
    df["online"] = df["online"].astype(bool)
    df["event_id"] = range(1, len(df) + 1)
    df["issues"] = None
    df = df.rename(columns={"resolved_county": "county_given", "claims_summary": "claims"})

    watch.part("read and typed")

    events = gpd.GeoDataFrame(df, geometry=df.apply(point, axis=1), crs=4326)  # pyrefly: ignore[no-matching-overload]
    events = gpd.sjoin(events, counties, how="left", predicate="within").drop_duplicates("event_id")
    events["fips"] = events["fips_located"].fillna(events["fips_given"])
    events["agreement"] = events.apply(agreement, axis=1)

    watch.part("located")

    events[COLUMNS].to_postgis("protest_events", engine, if_exists="replace", index=False)  # pyrefly: ignore[bad-argument-type]
    with engine.begin() as connection:  # to_postgis has made the index of the geometry
        connection.execute(sqlalchemy.text("ALTER TABLE protest_events ADD PRIMARY KEY (event_id)"))
        connection.execute(sqlalchemy.text("CREATE INDEX ON protest_events (event_date)"))
    watch.part("to_postgis and indexes")


if __name__ == "__main__":
    main(*sys.argv[1:])
