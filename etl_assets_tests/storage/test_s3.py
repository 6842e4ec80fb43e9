"""The lake on S3, over real HTTP: the same as a folder, object by object and table by table."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import psycopg
import pytest
import requests
from moto.server import ThreadedMotoServer
from psycopg import sql

from etl_assets.datasets.retail_sales import landing_retail_sales
from etl_assets.local.rebuild import rebuild_warehouse
from etl_assets.settings import PROJECT
from etl_assets.sources import Workspace
from etl_assets.sources.folder import WatchedFolder
from etl_assets.stages.dataset import SPECS
from etl_assets.storage.lake import Lake, LakeError
from etl_assets.storage.landing import Landing, Manifest, sha256
from etl_assets.storage.roles import SCHEMAS
from etl_assets_tests.contents import bookkeeping, differences, in_lake, lake_agrees_with_warehouse, rows
from etl_assets_tests.house import House

BUCKET = "lake-bucket"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """An S3 server with a bucket; one for the process, all servers in which would have the same buckets."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name="eu-west-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    yield url
    moto.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Endpoint and credentials in the environment, as AWS tools take them; gives the address of a lake."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    return f"s3://{BUCKET}"


def test_a_prefix_is_watched_as_a_folder_is(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_RETAIL_SALES_FOLDER", f"{s3}/dropped/sales")
    dropped = Lake(f"{s3}/dropped")
    source = SPECS[landing_retail_sales.key].source
    assert isinstance(source, WatchedFolder)
    header = b"Transaction_ID,Product_ID,Quantity,Price,Transaction_Date\n"
    dropped.put("sales/may.csv", header + b"1,1001,2,9.50,2022-05-05\n")
    dropped.put("sales/2022/june", header + b"2,1001,2,9.50,2022-06-05")
    dropped.put("sales/broken.csv", b"")
    dropped.put("sales2/another prefix.csv", header)
    fetched = source.fetch(Workspace(tmp_path), None)
    assert fetched is not None
    assert set(fetched.files) == {"2022/june", "may.csv"}
    assert set(fetched.refused) == {"broken.csv"}
    assert fetched.files["may.csv"].url == f"{s3}/dropped/sales/may.csv"
    assert source.probe(fetched.validators) is None
    stamps = {name: str(file.validators.etag) for name, file in fetched.files.items()}
    dropped.put("sales/july.csv", header + b"3,1001,2,9.50,2022-07-05\n")
    assert source.probe(fetched.validators) is not None
    later = source.fetch(Workspace(tmp_path, state=stamps), fetched.validators)
    assert later is not None
    assert set(later.files) == {"july.csv"}


def test_objects_are_put_listed_and_got(s3: str) -> None:
    lake = Lake(f"{s3}/objects and more")
    assert lake.put("a/one.txt", b"one")
    assert lake.put("a/one.txt", b"two!")
    assert lake.put("ab/three.txt", b"3")
    assert lake.get("a/one.txt") == b"two!"
    assert lake.list("a") == {"a/one.txt": 4}
    assert (lake.size("a/one.txt"), lake.size("a/none"), lake.get("a/none")) == (4, None, None)


def test_landed_bytes_that_are_gone_are_asked_for_as_in_a_folder(s3: str, tmp_path: Path) -> None:
    store, file = Landing(Lake(f"{s3}/lost"), "events"), tmp_path / "events.csv"
    file.write_text("a\n1\n")
    manifest = Manifest(sha256(file), 4, ".csv", "http://a", "2025-01-01", "2025-01-01", None, None)
    store.land(file, manifest)
    with store.open(manifest) as path:
        assert path.read_text() == "a\n1\n"
    store.lake.delete(f"landing/events/{manifest.sha256}.csv")
    with pytest.raises(LakeError, match=r"missing or .*Delete it.* and s3://.*current\.json, and land it again"):
        store.open(manifest).__enter__()


@pytest.mark.parametrize("size", [10, 12 << 20])  # the larger ones go in several parts
def test_create_writes_only_where_nothing_is(s3: str, size: int) -> None:
    lake = Lake(f"{s3}/created")
    assert lake.put(f"{size}", b"1" * size, create=True)
    assert not lake.put(f"{size}", b"2" * size, create=True)
    assert lake.get(f"{size}") == b"1" * size


def test_a_bucket_that_is_not_there_is_named(s3: str) -> None:
    lake = Lake("s3://no-such-bucket/lake")
    for ask in (lambda: lake.put("x", b""), lambda: lake.get("x"), lambda: lake.list("x")):
        with pytest.raises(LakeError, match=r"s3://no-such-bucket/lake/x: .* NoSuchBucket: The specified"):
            ask()


def test_credentials_that_are_refused_are_said_so_and_not_told(
    s3: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-of-nobody")
    check_credentials(server, after=0)
    try:
        for ask in (lambda: Lake(s3).put("x", b""), lambda: Lake(s3).get("x"), lambda: Lake(s3).list("x")):
            with pytest.raises(LakeError, match="InvalidAccessKeyId") as caught:
                ask()
            assert "s3cret" not in str(caught.value)
    finally:
        check_credentials(server, after=1_000_000_000)


def test_what_a_step_prints_is_in_the_lake(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a lake on S3; of a lake in a folder it stays in Dagster's home."""

    @dg.op
    def talk() -> None:
        print("said to whoever reads it later")

    @dg.job
    def talking() -> None:
        talk()

    (tmp_path / "dagster.yaml").symlink_to(PROJECT / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for lake_url in (f"{s3}/told", str(tmp_path / "lake")):
        monkeypatch.setenv("ETL_LAKE_URL", lake_url)
        with dg.DagsterInstance.get() as instance:
            run = talking.execute_in_process(instance=instance)
        local = list((tmp_path / "storage" / run.run_id).rglob("*.out"))
        remote = [p for p in Lake(f"{s3}/told").list("dagster_logs") if run.run_id in p and p.endswith(".out")]
        assert (len(local), len(remote)) == ((0, 1) if lake_url.startswith("s3") else (1, 0))
    (told,) = Lake(f"{s3}/told").list("dagster_logs")
    assert b"said to whoever reads it later" in (Lake(f"{s3}/told").get(told) or b"")


def check_credentials(server: str, after: int) -> None:
    """Let the server check the credentials of all but the next so many requests."""
    requests.post(f"{server}/moto-api/reset-auth", data=str(after), timeout=10).raise_for_status()


def test_credentials_and_region_may_be_those_of_a_profile(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[house]\naws_access_key_id = of profile\naws_secret_access_key = secret\n")
    (tmp_path / "config").write_text("[profile house]\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "house")
    lake = Lake(f"{s3}/of a profile")
    assert lake.put("x", b"there")
    assert lake.get("x") == b"there"
    store: Any = lake.store
    assert store.config["region"] == "eu-west-1"
    assert store.credential_provider()["access_key_id"] == "of profile"


def test_a_server_that_does_not_answer_is_said_so(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(LakeError, match=r"Cannot write s3://lake-bucket/x: .*127\.0\.0\.1:9"):
        Lake(s3).put("x", b"")


@pytest.mark.long
def test_the_whole_pipeline_is_the_same_as_with_a_folder(
    house: House, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.has_run()
    folder = house.lake
    first = rows(house), bookkeeping(house), in_lake(folder)
    house.publish("2025-04-04")
    assert house.run(), house.failures()
    second = rows(house), bookkeeping(house), in_lake(folder)

    # An empty lake, an empty warehouse, and the sources as they were at first.
    monkeypatch.setenv("ETL_LAKE_URL", f"{s3}/a prefix")
    with psycopg.connect(house.warehouse_url) as connection:
        for schema in SCHEMAS:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
    house.publish("2025-03-05")
    assert house.run(), house.failures()
    assert house.lake.url.startswith("s3://")
    assert differences(first[0], rows(house)) == []
    assert (bookkeeping(house), in_lake(house.lake)) == first[1:]
    objects = house.objects()
    assert house.run(), house.failures()
    assert (house.made(), house.objects()) == ({}, objects)

    house.publish("2025-04-04")
    assert house.run(), house.failures()
    assert differences(second[0], rows(house)) == []
    assert (bookkeeping(house), in_lake(house.lake)) == second[1:]
    assert lake_agrees_with_warehouse(house, house.lake)

    assert rebuild_warehouse() == 0
    assert differences(second[0], rows(house)) == []
    assert house.run(), house.failures()
    assert house.made() == {}
