"""Protest events in the United States, from the Crowd Counting Consortium, located in their counties."""

from datetime import timedelta
from pathlib import Path

import dagster as dg
import geopandas as gpd
import pandera.polars as pa
import polars as pl
import shapely

from etl_assets.automation.partitions import daily
from etl_assets.datasets.eventdata_baseline import FIRST_DAY, new_beside, refined_eventdata_baseline
from etl_assets.datasets.us_counties import locate, refined_us_counties
from etl_assets.quality.contract import Contract, column, geometry, storage_table
from etl_assets.quality.readings import as_read, distinct, number
from etl_assets.quality.states import CODES
from etl_assets.sources.dataverse import DataverseTable
from etl_assets.sources.delimited import read_csv
from etl_assets.stages import Dataset, Of, Result, landing, presentation, raw, refined
from etl_assets.stages.ordinals import with_ordinals
from etl_assets.stages.pictures import choropleth, lines
from etl_assets.storage.configured import identities, lake
from etl_assets.storage.frames import from_geopandas, wkb
from etl_assets.storage.hashes import row_hash
from etl_assets.storage.table import Partitioning

DATASET = Dataset(
    name="protest_events",
    title="Protest events in the United States",
    publisher="Crowd Counting Consortium",
    homepage="https://doi.org/10.7910/DVN/RI9JFU",
    licence="as the publisher states; cite",
    citation="Crowd Counting Consortium",
    cadence="about weekly; the file is replaced as a whole, with corrections that reach months back",
    stale_after=timedelta(days=21),
    data_stale_after=timedelta(days=30),
    partitions=daily(str(FIRST_DAY), ahead=366),
    batch=366,
)

#: The columns that hold a value in the phases of the file; the first one that has it in a record counts.
NAMES = {
    "event_type": ["event_type", "type"],
    "location": ["location", "location_detail"],
    "claims": ["claims_summary", "claims"],
}
SOURCES = [name for n in range(1, 31) for name in (f"source{n}", f"source_{n}")]
REQUIRED = ["date", "locality", "state"]
KEY = ["event_date", "locality", "state", "location", "title", "event_type", "organizations"]
#: Other columns that tell events of one natural key apart.
TELLING = [
    *("participants", "claims", "valence", "online", "size_low", "size_mean", "size_high", "arrests", "sources"),
    *("participant_injuries", "police_injuries", "county_given", "fips_given", "lat", "lon"),
]
#: Some of these, tried one set after another, for when the others have been corrected in all of the events at once.
STEADY = (
    *(["participants", "claims", "sources"], ["claims", "sources"], ["participants", "claims"]),
    *(["claims"], ["sources"]),
)


class ProtestEvents(
    Contract,
    stage="refined",
    table="protest_events",
    key=["event_id"],
    partitioning=Partitioning("event_date", "day"),
):
    """Protest events, one row per event; the point is the centroid of the locality, not the venue."""

    event_id: pl.Int64 = column("Surrogate id, assigned once per natural key and ordinal", ge=1)
    event_date: pl.Date = column("Date of the event")
    locality: pl.String = column("Town or city", nullable=True, str_length={"max_value": 500})
    state: pl.String = column("Postal code of the state or territory", isin=sorted(CODES.values()))
    location: pl.String = column("Place within the locality", nullable=True, str_length={"max_value": 10_000})
    title: pl.String = column("Title", nullable=True, str_length={"max_value": 10_000})
    event_type: pl.String = column("Types as given", nullable=True, str_length={"max_value": 1_000})
    event_types: pl.List(pl.String) = column("Types in lower case, without repeats")
    organizations: pl.String = column("Organizations as given", nullable=True, str_length={"max_value": 50_000})
    ordinal: pl.Int32 = column(
        "Position among events with the same date, locality, state, location, title, type and organizations", ge=1
    )
    participants: pl.String = column("Who took part", nullable=True, str_length={"max_value": 50_000})
    claims: pl.String = column("What was claimed", nullable=True, str_length={"max_value": 100_000})
    issues: pl.String = column("Issues that the publisher assigns; since April 2025", nullable=True)
    valence: pl.Int32 = column("0 neither, 1 against and 2 for the incumbent, as the publisher codes it", nullable=True)
    online: pl.Boolean = column("Held online", nullable=True)
    is_announced: pl.Boolean = column("Whether it is dated after the publication that the row was read from")
    size_low: pl.Float64 = column("Lowest estimate of the size", unit="people", nullable=True, ge=0, le=1e8)
    size_mean: pl.Float64 = column("Mean estimate of the size", unit="people", nullable=True, ge=0, le=1e8)
    size_high: pl.Float64 = column("Highest estimate of the size", unit="people", nullable=True, ge=0, le=1e8)
    arrests: pl.Float64 = column("Arrests, where the source has a number", unit="people", nullable=True, ge=0)
    participant_injuries: pl.Float64 = column("Injured participants, if known", unit="people", nullable=True, ge=0)
    police_injuries: pl.Float64 = column("Injured police, if known", unit="people", nullable=True, ge=0)
    sources: pl.List(pl.String) = column("Sources in the order given, without repeats and gaps")
    source_count: pl.Int32 = column("Number of sources", ge=0)
    county_given: pl.String = column("County as the source has it", nullable=True)
    fips_given: pl.String = column(
        "FIPS code as the source has it", nullable=True, str_matches="^(0[1-9]|[1-9][0-9])[0-9]{3}$"
    )
    county_located: pl.String = column("County that contains the point", nullable=True)
    fips_located: pl.String = column("FIPS code of the county that contains the point", nullable=True)
    fips: pl.String = column("fips_located, or fips_given where there is none", nullable=True)
    agreement: pl.String = column(
        "Whether the located county is the given one", isin=["same", "differs", "no_point", "outside"]
    )
    lat: pl.Float64 = column("Latitude", unit="degrees", nullable=True, in_range={"min_value": -15, "max_value": 72})
    lon: pl.Float64 = column("Longitude", unit="degrees", nullable=True, in_range={"min_value": -180, "max_value": 180})
    row_hash: pl.Int64 = column("XXH3 hash of the source's record: equal for equal records")
    geometry: pl.Binary = geometry("Point", 4326, "Centroid of the locality", nullable=True)

    @pa.dataframe_check(name="size_low_is_not_above_size_high")
    def _sizes(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("size_low") <= pl.col("size_high")).fill_null(True))

    @pa.dataframe_check(name="lon_is_of_the_united_states")
    def _longitude(cls, data: pa.PolarsData) -> pl.LazyFrame:
        # Guam and the Northern Marianas lie west of the date line.
        west, east = pl.col("lon").is_between(-180, -64), pl.col("lon").is_between(144, 180)
        return data.lazyframe.select((west | east).fill_null(True))


landing_protest_events = landing(
    DATASET,
    DataverseTable(
        source="protest_events",
        file="ccc.csv",
        # Phase 3, since 2025; earlier phases are datasets of their own: doi:10.7910/DVN/6OPP7H and …/9MMYDI.
        live="https://dataverse.harvard.edu/api/datasets/:persistentId/versions/:latest-published/files"
        "?persistentId=doi:10.7910/DVN/RI9JFU",
    ),
)


@raw(
    DATASET,
    landing_protest_events,
    required=REQUIRED,
    # Without one of these, all events would become different ones, or lose their place.
    stays=[NAMES.get(name, [name]) for name in (*KEY[3:], "lat", "lon")],
    partition=pl.col("date").str.strip_chars(),
)
def raw_protest_events(path: Path) -> pl.DataFrame:
    """Phases 1 to 3 of the file are read alike."""
    return read_csv(path)


@refined(
    DATASET,
    ProtestEvents,
    raw=raw_protest_events,
    counties=refined_us_counties,
    before=Of(refined_eventdata_baseline, ["event_id"], all_partitions=True),
)
def refined_protest_events(raw: pl.DataFrame, counties: gpd.GeoDataFrame, before: pl.DataFrame) -> Result:
    """Typed, keyed, located; records that are equal in every column are merged."""
    records, merged = distinct(raw)
    events = typed(records)
    del records  # as large as the raw records
    days = raw["_partition"].unique().sort().to_list()
    published = lake().read(storage_table(ProtestEvents), days, [*KEY, *TELLING, "row_hash", "ordinal"])
    events = with_ordinals(events, published.frame, KEY, TELLING, *STEADY).with_columns(
        geometry=_points(events["lat"], events["lon"])
    )
    names = pl.DataFrame({"fips_located": counties["fips"].to_list(), "county_located": counties["name"].to_list()})
    events = events.with_columns(fips_located=locate(events["geometry"], counties))
    events = events.join(names, on="fips_located", how="left", maintain_order="left").with_columns(
        fips=pl.coalesce("fips_located", "fips_given"),
        agreement=pl.when(pl.col("geometry").is_null()).then(pl.lit("no_point"))
        .when(pl.col("fips_located").is_null()).then(pl.lit("outside"))
        .when(pl.col("fips_located") == pl.col("fips_given")).then(pl.lit("same"))
        .otherwise(pl.lit("differs")),
    )  # fmt: skip
    identity = row_hash(events, [*KEY, "ordinal"])
    taken = before.select(pl.col("event_id").max()).item() or 0
    events = events.with_columns(event_id=identities("protest_events").allocate(identity, floor=taken))
    return Result(events, merged)


def typed(records: pl.DataFrame) -> pl.DataFrame:
    """The records' values in the contract's types, under its names, whatever the phase of the file calls them."""
    there = {c for c in records.columns if records[c].null_count() < records.height}

    def text(name: str) -> pl.Expr:
        given = [pl.col(n).str.strip_chars() for n in NAMES.get(name, [name]) if n in there]
        values = [pl.when(~value.is_in(["", "NA"])).then(value) for value in given]
        return pl.coalesce(values) if values else pl.lit(None, pl.String)

    fips = text("fips_code").str.replace(r"\.0$", "").str.replace("^([0-9]{4})$", "0$1")
    sources = pl.concat_list([text(name) for name in SOURCES if name in there] or [pl.lit(None, pl.String)])
    date, valence = text("date").str.to_date("%Y-%m-%d", strict=False), number(text("valence"))
    truth = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
    readings = {
        "event_date": ("date", date),
        **{name: (name, number(text(name))) for name in ("size_low", "size_mean", "size_high", "lat", "lon")},
        "valence": ("valence", pl.when(valence == valence.round()).then(valence).cast(pl.Int32, strict=False)),
        "online": ("online", text("online").str.to_lowercase().replace_strict(truth, default=None)),
    }
    texts = (*KEY[1:], "participants", "claims", "issues")
    return as_read(
        records,
        readings,
        nothing=["", "NA"],
        **{name: text(name) for name in texts},
        event_types=text("event_type").str.to_lowercase().str.split(";").list.eval(pl.element().str.strip_chars())
        .list.eval(pl.element().filter(pl.element() != "")).list.unique(maintain_order=True).fill_null([]),
        is_announced=date > pl.col("_published_at").dt.date(),
        arrests=number(text("arrests")),
        participant_injuries=number(text("participant_injuries")),
        police_injuries=number(text("police_injuries")),
        sources=sources.list.drop_nulls().list.unique(maintain_order=True),
        county_given=text("resolved_county"),
        fips_given=fips,
        row_hash="_row_hash",
    ).with_columns(source_count=pl.col("sources").list.len().cast(pl.Int32))  # fmt: skip


def _points(lat: pl.Series, lon: pl.Series) -> pl.Series:
    """WKB points, null where a coordinate is missing or is no number; each distinct point is made once."""
    pairs = pl.DataFrame({"lon": lon, "lat": lat})
    distinct = pairs.drop_nulls().unique().filter(pl.all_horizontal(pl.all().is_finite()))
    known = distinct.with_columns(geometry=wkb(shapely.points(distinct.to_numpy())))
    return pairs.join(known, on=["lon", "lat"], how="left", maintain_order="left")["geometry"]


#: Where the lake keeps which ids were given to rows, and to events.
ROW_IDS = ("identities/eventdata/", "presentation/eventdata/")
EVENT_IDS = ("identities/protest_events/", "refined/protest_events/", *ROW_IDS)


class Eventdata(
    Contract,
    stage="presentation",
    table="eventdata",
    key=["id"],
    partitioning=Partitioning("event_date", "day"),
):
    """Protest events in the shape that the first pipeline's readers know, with the rows that were there before."""

    id: pl.Int64 = column("Row id: kept from before, or the next after the greatest so far", ge=0)
    event_id: pl.Int64 = column("Event id: that of refined.protest_events, or kept from before", ge=0)
    event_date: pl.Date = column("Date of the event")
    event_state: pl.String = column("Postal code of the state", nullable=True)
    event_county: pl.String = column("County that contains the point, or else the source's", nullable=True)
    event_city: pl.String = column("Town or city", nullable=True)
    event_type: pl.String = column("Types as the source has them", nullable=True)
    event_source: pl.String = column("Sources, joined by a comma", nullable=True)
    geometry: pl.Binary = geometry("Point", 4326, "Centroid of the locality", nullable=True)


@presentation(
    DATASET,
    Eventdata,
    partitions=DATASET.partitions,
    events=refined_protest_events,
    before=Of(refined_eventdata_baseline, all_partitions=True),
)
def presentation_eventdata(events: pl.DataFrame, before: pl.DataFrame, partitions: list[str]) -> pl.DataFrame:
    """An event keeps the ids of a row from before that shows a reader the same, except perhaps the county."""
    rows = events.sort("event_id").select(
        "event_id",
        "event_date",
        event_state="state",
        event_county=pl.coalesce("county_located", "county_given"),
        event_city="locality",
        event_type="event_type",
        event_source=pl.col("sources").list.join(", "),
        geometry="geometry",
    )
    columns = list(Eventdata.columns())
    old = before.filter(pl.col("event_date").cast(pl.String).is_in(partitions)).sort("id").select(columns)
    new = new_beside(old, rows)
    ids = identities("eventdata").allocate(new["event_id"], floor=before.select(pl.col("id").max()).item() or 0)
    for given, former, of in ((new["event_id"], "event_id", EVENT_IDS), (ids, "id", ROW_IDS)):
        twice = given.filter(given.is_in(before[former].implode()))
        if twice.len():
            raise dg.Failure(
                f"{twice.len()} {former}s of the baseline, such as {twice[0]}, were assigned to others before it was "
                "set: set ETL_EVENTDATA_BASELINE before the first run. Set it to none; or give it its ids: delete "
                f"{', '.join(of)} in the lake, run ./dev rebuild-warehouse, and run again.",
                allow_retries=False,
            )
    return pl.concat([old, new.with_columns(id=ids).select(columns)])


class CountyProtestsMonthly(
    Contract,
    stage="presentation",
    table="county_protests_monthly",
    key=["fips", "month"],
    partitioning=Partitioning("month", "month"),
):
    """Protest events per county and month; events without a county are left out."""

    fips: pl.String = column("Five-digit FIPS code of the county that contains the point, or else the given one")
    county: pl.String = column("Name of the county; null for a code that the boundaries do not have", nullable=True)
    state: pl.String = column("Postal code of the state, as most of the events have it")
    month: pl.Date = column("First day of the month")
    events: pl.Int64 = column("Events, including announced ones", unit="events", ge=1)
    size_low: pl.Float64 = column(
        "Sum of the lowest estimates, of the events that have one", unit="people", nullable=True, ge=0
    )
    size_mean: pl.Float64 = column(
        "Sum of the mean estimates, of the events that have one", unit="people", nullable=True, ge=0
    )
    size_high: pl.Float64 = column(
        "Sum of the highest estimates, of the events that have one", unit="people", nullable=True, ge=0
    )
    sized_events: pl.Int64 = column("Events that have a mean estimate", unit="events", ge=0)
    distinct_sources: pl.Int64 = column("Different sources", unit="sources", ge=0)
    single_source_share: pl.Float64 = column("Share of events with one source only", unit="0 to 1", ge=0, le=1)
    geometry: pl.Binary = geometry("MultiPolygon", 4326, "Boundary of the county", nullable=True)


@presentation(
    DATASET,
    CountyProtestsMonthly,
    events=Of(
        refined_protest_events,
        ["event_date", "state", "fips", "size_low", "size_mean", "size_high", "sources", "source_count"],
    ),
    counties=refined_us_counties,
)
def presentation_county_protests_monthly(events: pl.DataFrame, counties: gpd.GeoDataFrame) -> Result:
    """Summed by county and month; a sum over events that have no estimate is null, not 0."""
    by = ["fips", "month"]
    located = events.drop_nulls("fips").with_columns(month=pl.col("event_date").dt.truncate("1mo"))
    sizes = [
        pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name)
        for name in ("size_low", "size_mean", "size_high")
    ]
    months = located.group_by(by).agg(
        pl.col("state").mode().sort().first(),
        *sizes,
        events=pl.len().cast(pl.Int64),
        sized_events=pl.col("size_mean").count().cast(pl.Int64),
        distinct_sources=pl.col("sources").explode().drop_nulls().n_unique().cast(pl.Int64),
        single_source_share=(pl.col("source_count") == 1).mean(),
    )
    places = from_geopandas(counties[["fips", "name", "geometry"]]).rename({"name": "county"})
    table = months.join(places, on="fips", how="left")
    totals = months.group_by("fips").agg(pl.col("events").sum())
    shown = counties.merge(totals.to_pandas(), on="fips", how="left")
    over_time = months.group_by("month").agg(pl.col("events").sum()).sort("month")
    return Result(
        table.select(list(CountyProtestsMonthly.columns())),
        metadata={
            "map": choropleth(shown, "events", "Protest events per county"),
            "over_time": lines(over_time, "month", ["events"], "Protest events per month"),
            "events_without_county": events.height - located.height,
        },
    )


class EventSources(Contract, stage="presentation", table="event_sources", key=["source"]):
    """What each source reports: how much, since when, and how often others report it too."""

    source: pl.String = column("Domain of the source where it has one, else the source's first 500 letters")
    is_domain: pl.Boolean = column("Whether the source is a domain")
    events: pl.Int64 = column("Events that the source reports", unit="events", ge=1)
    first_date: pl.Date = column("Date of the first of them")
    last_date: pl.Date = column("Date of the last of them")
    corroborated_share: pl.Float64 = column("Share of them that another source reports too", unit="0 to 1", ge=0, le=1)


@presentation(DATASET, EventSources, events=Of(refined_protest_events, ["event_id", "event_date", "sources"]))
def presentation_event_sources(events: pl.DataFrame) -> Result:
    """One row per source; two pages of one domain are one source."""
    domain = (
        pl.col("sources")
        .str.to_lowercase()
        .str.extract(r"^(?:https?://)?(?:www\.)?([a-z0-9.-]+\.[a-z]{2,})(?:[/:?#]|$)")
    )
    given = events.explode("sources").drop_nulls("sources")
    names = given.select(pl.col("sources").unique()).select(  # few, as most are given again and again
        "sources", source=pl.coalesce(domain, pl.col("sources").str.slice(0, 500)), is_domain=domain.is_not_null()
    )
    named = (
        given.join(names, on="sources")
        .unique(["event_id", "source"])
        .with_columns(corroborated=pl.len().over("event_id") > 1)
    )
    table = named.group_by("source").agg(
        pl.col("is_domain").first(),
        events=pl.len().cast(pl.Int64),
        first_date=pl.col("event_date").min(),
        last_date=pl.col("event_date").max(),
        corroborated_share=pl.col("corroborated").mean(),
    )
    return Result(table.select(list(EventSources.columns())), metadata={"sources": table.height})
