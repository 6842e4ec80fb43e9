"""Fixtures that every test may use: a real PostGIS, real HTTP sources, a lake, and a house of all of them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl_assets.local.postgres import Cluster
from etl_assets.local.sample import write_sample
from etl_assets.local.source_server import serve
from etl_assets_tests.faults import Faults
from etl_assets_tests.house import House, ephemeral

#: What the sources that want a token accept.
TOKEN = "a-token-of-the-tests"
SHARED_DATA = Path(os.environ.get("ETL_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests go first: begun last, one of them would keep the other worker waiting.

    The two workers of `./dev test` begin with a half of the tests each.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    first = len(items) // 2 - len(long[::2])
    items[:] = [*long[::2], *others[:first], *long[1::2], *others[first:]]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test sees the settings that it makes, not those of the shell or of a clone's embedded default."""
    for name in list(os.environ):
        if name.startswith(("ETL_", "AWS_", "DAGSTER_")) and name != "DAGSTER_EVENT_BATCH_SIZE":  # the project's own
            monkeypatch.delenv(name)
    monkeypatch.setenv("ETL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ETL_HTTP_RETRY_WAIT", "0.01")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A private PostGIS that goes with the session."""
    server = Cluster(tmp_path_factory.mktemp("postgres"), fast=True)
    server.start()
    yield server
    server.stop(immediate=True)


@pytest.fixture
def warehouse_url(cluster: Cluster) -> Iterator[str]:
    """A database with PostGIS of the test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield cluster.create_database(name)
    cluster.drop_database(name)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own sample; not to be written to."""
    folder = tmp_path_factory.mktemp("sample") / "data"
    write_sample(folder)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The recorded source data beside the project; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the recorded source data in {SHARED_DATA} (ETL_SHARED_DATA)")
    return SHARED_DATA


@pytest.fixture
def house(
    warehouse_url: str, cluster: Cluster, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    """A house on a copy of the project's own sample, as of the first publication of the event file."""
    data = tmp_path / "data"
    shutil.copytree(sample, data)
    yield from _house(data, warehouse_url, cluster, tmp_path, monkeypatch)


@pytest.fixture
def shared_house(
    warehouse_url: str, cluster: Cluster, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    """A house on the recorded source data, as of the first publication of the event file."""
    yield from _house(shared_data, warehouse_url, cluster, tmp_path, monkeypatch)


def _house(
    data: Path, warehouse_url: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    home, as_of, faults = tmp_path / "home", tmp_path / "as_of", Faults()
    as_of.write_text("2025-03-05")
    monkeypatch.setenv("ETL_WAREHOUSE_URL", warehouse_url)
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    monkeypatch.setenv("ETL_RETAIL_TOKEN", TOKEN)
    with serve(data, as_of=as_of, handler=faults.handler(), token=TOKEN) as url, ephemeral() as instance:
        monkeypatch.setenv("ETL_LOCAL_SOURCES_URL", url)
        made = House(home, data, warehouse_url, as_of, faults, instance, cluster=cluster)
        yield made
        made.close()
