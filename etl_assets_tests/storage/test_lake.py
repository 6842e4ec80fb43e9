"""The Parquet lake in a local folder: objects, partitions, GeoParquet, and what others read in it."""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import polars as pl
import pyarrow.parquet as pq
import pytest
import shapely

from etl_assets.storage import lake as module
from etl_assets.storage.frames import wkb
from etl_assets.storage.lake import Lake, LakeError, encode
from etl_assets.storage.landing import Landing, Manifest, sha256
from etl_assets.storage.table import Column, Facts, Geometry, Partitioning, Table
from etl_assets_tests.contents import put_partition

EVENTS = Table(
    "refined",
    "events",
    (
        Column("day", "date", nullable=False),
        Column("title", "text"),
        Column("sources", "text[]"),
        Column("point", "geometry(Point,4326)", geometry=Geometry("Point", 4326)),
    ),
    partitioning=Partitioning("day", "day"),
)
AREAS = Table(
    "refined",
    "areas",
    (Column("fips", "text"), Column("area", "geometry(Polygon,4326)", geometry=Geometry("Polygon", 4326))),
)
NUMBERS = Table("raw", "numbers", (Column("n", "bigint"), Column("name", "text"), Column("price", "numeric(8,2)")))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "a lake"))


def facts(partition: str = "", rows: int = 1, content_hash: str = "c") -> Facts:
    return Facts(partition, rows, content_hash, "made from", "run", "2025-01-01T00:00:00+00:00")


def events(*days: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "day": [dt.date.fromisoformat(day) for day in days],
            "title": [f"title of {day} 🌎" for day in days],
            "sources": [["a", "b"] for _ in days],
            "point": [shapely.to_wkb(shapely.Point(-90.5, 40.25)) for _ in days],
        }
    )


def test_objects_are_put_listed_and_got(lake: Lake) -> None:
    assert lake.list("") == {}
    assert lake.put("a/one.txt", b"one")
    assert lake.put("a/one.txt", b"two!")
    assert lake.put("ab/three.txt", b"3")
    assert lake.get("a/one.txt") == b"two!"
    assert lake.list("a") == {"a/one.txt": 4}, "a prefix is a folder, not the beginning of a name"
    assert lake.size("a/one.txt") == 4
    assert lake.size("a/none") is None
    assert lake.get("a/none") is None


def test_create_writes_only_where_nothing_is(lake: Lake) -> None:
    assert lake.put("ids/1", b"first", create=True)
    assert not lake.put("ids/1", b"second", create=True)
    assert lake.get("ids/1") == b"first"


@pytest.mark.parametrize("spelling", ["{}", "file://{}"])
def test_a_folder_is_the_same_lake_in_every_spelling(tmp_path: Path, spelling: str) -> None:
    Lake(spelling.format(tmp_path / "lake")).put("x", b"1")
    assert Lake(str(tmp_path / "lake")).get("x") == b"1"


def test_a_partition_comes_back_as_it_was_written(lake: Lake) -> None:
    frame = events("2025-01-15", "2025-01-15")
    size = put_partition(lake, EVENTS, frame, facts("2025-01-15", 2, "abc"))
    assert lake.list("") == {"refined/events/2025-01-15.parquet": size}
    found = lake.read(EVENTS)
    assert found.frame.equals(frame)
    assert found.versions == {"2025-01-15": "abc"}
    assert lake.facts(EVENTS, ["2025-01-15", "2025-01-16"]) == {"2025-01-15": facts("2025-01-15", 2, "abc")}


def test_objects_of_a_former_partitioning_are_not_read(lake: Lake) -> None:
    """They hold the same rows once more."""
    for day in ("2025-01-01", "2025-01-15"):
        put_partition(lake, EVENTS, events(day), facts(day))
    put_partition(lake, replace(EVENTS, partitioning=None), events("2025-01-15"), facts())
    by = {"day": {"2025-01-01", "2025-01-15"}, "month": {"2025-01-01"}, "year": {"2025-01-01"}}
    for every, keys in by.items():
        table = replace(EVENTS, partitioning=Partitioning("day", every))  # pyrefly: ignore[bad-argument-type]
        assert lake.read(table).versions.keys() == keys
    assert lake.read(replace(EVENTS, partitioning=None)).versions.keys() == {""}
    assert lake.read(replace(EVENTS, partitioning=Partitioning("n", "block"))).versions == {}


def test_a_table_without_partitions_is_one_object(lake: Lake) -> None:
    frame = pl.DataFrame({"n": [1], "name": ["a"], "price": ["12.50"]}).with_columns(
        pl.col("price").cast(pl.Decimal(8, 2))
    )
    put_partition(lake, NUMBERS, frame, facts())
    assert lake.partitions(NUMBERS).keys() == {""}
    assert lake.read(NUMBERS).frame.equals(frame)


def test_only_the_partitions_and_columns_asked_for_are_read(lake: Lake) -> None:
    for day in ("2025-01-15", "2025-01-16", "2025-01-17"):
        put_partition(lake, EVENTS, events(day), facts(day))
    found = lake.read(EVENTS, ["2025-01-17", "2025-01-16", "1999-01-01"], ["title", "day"])
    assert found.frame.columns == ["title", "day"]
    assert found.frame["day"].to_list() == [dt.date(2025, 1, 17), dt.date(2025, 1, 16)]
    assert found.versions.keys() == {"2025-01-16", "2025-01-17"}
    assert lake.read(EVENTS, ["2025-01-17"], ["point"]).frame.schema == {"point": pl.Binary}


def test_nothing_to_read_is_an_empty_frame_of_the_tables_shape(lake: Lake) -> None:
    found = lake.read(EVENTS, columns=["sources", "day"])
    assert found.frame.schema == {"sources": pl.List(pl.String), "day": pl.Date}
    assert found.versions == {}


def test_a_column_that_a_partition_lacks_is_null_there(lake: Lake) -> None:
    old, new = pl.DataFrame({"n": [1, 2]}), pl.DataFrame({"n": [3], "name": ["c"]})
    cut = Table("raw", "numbers", NUMBERS.columns, partitioning=Partitioning("name"))
    put_partition(lake, cut, old, facts("old"))
    assert lake.read(cut, columns=["name"]).frame["name"].to_list() == [None, None], "not even one partition has it"
    put_partition(lake, cut, new, facts("new"))
    assert lake.read(cut, ["old", "new"]).frame["name"].to_list() == [None, None, "c"]
    assert lake.read(cut, ["old", "new"], ["name"]).frame["name"].to_list() == [None, None, "c"]


def test_points_are_geoparquet_that_geopandas_reads(lake: Lake, tmp_path: Path) -> None:
    put_partition(lake, EVENTS, events("2025-01-15"), facts("2025-01-15"))
    read = gpd.read_parquet(tmp_path / "a lake" / "refined/events/2025-01-15.parquet")
    assert read.crs.to_epsg() == 4326
    assert read.geometry.iloc[0] == shapely.Point(-90.5, 40.25)
    assert "bbox" not in read.columns


def test_the_bounds_of_points_are_said_and_points_of_another_form_refused(lake: Lake, tmp_path: Path) -> None:
    shapes = [shapely.Point(-90.5, 40.25), None, shapely.Point(), shapely.Point(-95, 50)]
    frame = pl.concat([events("2025-01-15")[:1]] * len(shapes)).with_columns(point=wkb(shapes))
    put_partition(lake, EVENTS, frame, facts("2025-01-15"))
    metadata = pq.read_metadata(tmp_path / "a lake" / "refined/events/2025-01-15.parquet").metadata
    assert json.loads(metadata[b"geo"])["columns"]["point"]["bbox"] == [-95, 40.25, -90.5, 50]
    for other in (shapely.to_wkb(shapely.Point(1, 2, 3)), shapely.to_wkb(shapely.Point(1, 2), byte_order=0)):
        with pytest.raises(ValueError, match="point: points have to be two-dimensional, little-endian WKB"):
            put_partition(lake, EVENTS, frame.with_columns(point=pl.lit(other)), facts("2025-01-15"))


def test_areas_are_geoparquet_with_a_box_that_only_others_see(lake: Lake, tmp_path: Path) -> None:
    square = shapely.box(-90, 40, -89, 41)
    frame = pl.DataFrame({"fips": ["17001"], "area": [shapely.to_wkb(square)]})
    put_partition(lake, AREAS, frame, facts())
    path = tmp_path / "a lake" / "refined/areas/all.parquet"
    assert gpd.read_parquet(path, bbox=(0, 0, 1, 1)).empty
    assert gpd.read_parquet(path).geometry.iloc[0].equals(square)
    assert lake.read(AREAS).frame.equals(frame)


def test_a_geometry_may_be_missing_and_a_partition_empty(lake: Lake) -> None:
    frame = events("2025-01-15").with_columns(point=pl.lit(None, pl.Binary))
    put_partition(lake, EVENTS, frame, facts("2025-01-15"))
    put_partition(lake, EVENTS, frame.clear(), facts("2025-01-16", 0))
    assert lake.read(EVENTS).frame.equals(frame)
    assert lake.facts(EVENTS, ["2025-01-16"])["2025-01-16"].rows == 0


def test_a_damaged_object_counts_as_absent_and_is_named_when_it_is_read(lake: Lake) -> None:
    lake.put("refined/events/2025-01-15.parquet", b"half a file")
    lake.put("refined/events/2025-01-16.parquet", b"")
    assert lake.facts(EVENTS, ["2025-01-15", "2025-01-16"]) == {}
    with pytest.raises(LakeError, match=r"2025-01-15\.parquet is damaged"):
        lake.read(EVENTS, ["2025-01-15"])


def test_more_partitions_than_are_read_together_come_in_the_order_asked_for(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SCANNED", 3)
    days = [f"2025-01-{day:02d}" for day in range(31, 20, -1)]
    for day in days:
        put_partition(lake, EVENTS, events(day), facts(day, content_hash=f"of {day}"))
    found = lake.read(EVENTS, [*days, "2025-02-01"], ["day"])
    assert found.frame["day"].cast(pl.String).to_list() == days
    assert found.versions == {day: f"of {day}" for day in days}
    lake.put("refined/events/2025-01-22.parquet", b"half a file")
    with pytest.raises(LakeError, match=r"2025-01-22\.parquet is damaged"):
        lake.read(EVENTS, days)


def test_a_footer_that_is_longer_than_most_is_read_whole(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its partition would count as absent, and be made anew each time."""
    monkeypatch.setattr(module, "_TAIL", 64)
    put_partition(lake, EVENTS, events("2025-01-15"), facts("2025-01-15"))
    assert lake.facts(EVENTS, ["2025-01-15"]) == {"2025-01-15": facts("2025-01-15")}


def test_a_footer_with_another_byte_is_read_or_counts_as_absent(lake: Lake) -> None:
    """At some of them the decoder panics."""
    whole = encode(EVENTS, events("2025-01-15"), facts("2025-01-15"))
    footer = int.from_bytes(whole[-8:-4], "little")
    absent = 0
    for place in range(len(whole) - 8 - footer, len(whole) - 8):
        lake.put("refined/events/2025-01-15.parquet", whole[:place] + b"\x01" + whole[place + 1 :])
        absent += not lake.facts(EVENTS, ["2025-01-15"])
    assert 0 < absent < footer


def test_a_strangers_parquet_is_refused(lake: Lake, tmp_path: Path) -> None:
    lake.put("raw/numbers/x", b"")
    pl.DataFrame({"n": [1]}).write_parquet(tmp_path / "a lake/raw/numbers/all.parquet")
    with pytest.raises(LakeError, match="was not written by this project"):
        lake.read(NUMBERS)


def test_a_failed_write_leaves_what_was_there(lake: Lake, tmp_path: Path) -> None:
    lake.put("raw/numbers/all.parquet", b"before")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    try:
        with pytest.raises(LakeError, match=r"Cannot write .*all\.parquet: .*check that the lake has space") as caught:
            lake.put("raw/numbers/all.parquet", os.urandom(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert "Debug" not in str(caught.value), "what the store says of its own insides is no help"
    assert lake.get("raw/numbers/all.parquet") == b"before"
    assert [path.name for path in (tmp_path / "a lake").rglob("*") if path.is_file()] == ["all.parquet"]


def landed(tmp_path: Path, content: bytes) -> tuple[Path, Manifest]:
    path = tmp_path / "file.csv"
    path.write_bytes(content)
    return path, Manifest(sha256(path), len(content), ".csv", "http://source/file.csv", "now", "then", '"tag"', None)


def test_an_object_that_is_not_there_is_deleted_like_one_that_is(lake: Lake) -> None:
    for name in ("one", "two"):
        lake.put(name, b"")
    lake.delete("one", "none", "two")
    assert lake.list("") == {}


def test_the_same_bytes_land_once(lake: Lake, tmp_path: Path) -> None:
    store = Landing(lake, "events")
    assert store.current() is None
    path, manifest = landed(tmp_path, b"a,b\n")
    store.land(path, manifest)
    first = lake.list("")
    store.land(path, manifest)
    assert lake.list("") == first
    with store.open(manifest) as opened:
        assert opened.read_bytes() == b"a,b\n"


def test_a_landing_killed_half_way_leaves_the_last_good_file_current(lake: Lake, tmp_path: Path) -> None:
    store = Landing(lake, "events")
    good = landed(tmp_path, b"good\n")[1]
    store.land(tmp_path / "file.csv", good)
    path, new = landed(tmp_path, b"new\n")
    lake.put(f"landing/events/{new.sha256}.csv", b"new\n")  # and here it was killed
    assert store.current() == good
    store.land(path, new)
    assert store.current() == new


def test_landed_bytes_that_changed_are_refused(lake: Lake, tmp_path: Path) -> None:
    store = Landing(lake, "events")
    path, manifest = landed(tmp_path, b"good\n")
    store.land(path, manifest)
    lake.put(f"landing/events/{manifest.sha256}.csv", b"bad!\n")
    with pytest.raises(LakeError, match="is missing or not the file that was landed"), store.open(manifest):
        pass


def test_a_landed_file_that_is_json_does_not_take_its_manifests_place(tmp_path: Path) -> None:
    store, file = Landing(Lake(str(tmp_path / "lake")), "customers"), tmp_path / "customers.json"
    file.write_text("[]")
    manifest = Manifest(sha256(file), 2, ".json", "http://a", "2025-01-01", "2025-01-01", None, None)
    store.land(file, manifest)
    assert list(store.manifests()) == [manifest]
    with store.open(manifest) as path:
        assert path.read_text() == "[]"
    store.forget(manifest)
    assert list(store.manifests()) == []


def test_what_names_a_landed_file_is_written_after_it_and_deleted_last(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, nothing is current that is not there, and what is to be deleted is found again."""
    store, done, put, delete = Landing(lake, "events"), list[str](), Lake.put, Lake.delete

    def told_put(self: Lake, path: str, *given: Any, **more: Any) -> bool:
        done.append(path.removeprefix("landing/events/"))
        return put(self, path, *given, **more)

    def told_delete(self: Lake, *paths: str) -> None:
        done.extend(path.removeprefix("landing/events/") for path in paths)
        delete(self, *paths)

    monkeypatch.setattr(Lake, "put", told_put)
    monkeypatch.setattr(Lake, "delete", told_delete)
    path, own = landed(tmp_path, b"good\n")
    store.land(path, own)
    assert done == [f"{own.sha256}.csv", f"{own.sha256}.json", "current.json"]
    done.clear()
    store.forget(own)
    assert done == [f"{own.sha256}.csv", f"{own.sha256}.json"]
    done.clear()
    store.land_set([(path, own)], replace(own, sha256="set", members={"one": own.sha256}))
    assert done == [f"{own.sha256}.csv", f"{own.sha256}.json", "set.json", "current.json"]
    done.clear()
    batch = "2024-11-15T093000.000000Z"
    path.rename(tmp_path / "item.parquet")
    store.land_batch(tmp_path, replace(own, batch=batch, files={"item": {batch: own.sha256}}))
    assert done == [f"2024-11-15/{batch}/{name}" for name in ("item.parquet", "manifest.json")] + ["current.json"]


def test_a_file_of_a_batch_that_changed_is_refused_and_a_batch_without_manifest_not_seen(
    lake: Lake, tmp_path: Path
) -> None:
    store, batch = Landing(lake, "shop"), "2024-11-15T093000.000000Z"
    path, own = landed(tmp_path, b"good\n")
    path.rename(tmp_path / "item.parquet")
    store.land_batch(tmp_path, manifest := replace(own, batch=batch, files={"item": {batch: own.sha256}}))
    assert store.files(None) == store.files(manifest) == manifest.files
    lake.put(f"{store.batch_folder(batch)}item.parquet", b"bad!\n")
    with pytest.raises(LakeError, match="is missing or not the file"), store.open_batched(batch, "item", own.sha256):
        pass
    assert store.files(manifest) == manifest.files, "it is not taken for another that somebody has put there"
    lake.delete(f"{store.batch_folder(batch)}manifest.json")
    assert store.files(None) == {}


def test_a_landed_file_of_which_a_copy_left_nothing_is_written_again(lake: Lake, tmp_path: Path) -> None:
    """Whatever made it empty: the source has it still."""
    store = Landing(lake, "events")
    path, manifest = landed(tmp_path, b"good\n")
    lake.put(f"landing/events/{manifest.sha256}.csv", b"")
    store.land(path, manifest)
    with store.open(manifest) as opened:
        assert opened.read_bytes() == b"good\n"


def test_a_set_of_which_a_file_is_not_known_any_more_is_not_read_without_it(lake: Lake, tmp_path: Path) -> None:
    """Its rows would be gone from what is made of it, and nobody would be told."""
    store, files = Landing(lake, "sales"), []
    for name in ("one", "two"):
        path = tmp_path / name
        path.write_text(name)
        files.append((path, Manifest(sha256(path), 3, ".csv", f"/{name}", "now", "then", None, None)))
    members = {path.name: own.sha256 for path, own in files}
    store.land_set(files, manifest := replace(files[0][1], sha256="set", members=members))
    assert [own.url for own in store.members(manifest)] == ["/one", "/two"]
    lake.delete(f"landing/sales/{members['two']}.json")
    with pytest.raises(LakeError, match=rf"{members['two']}\.json is missing\. Delete .*current\.json and land"):
        store.members(manifest)
