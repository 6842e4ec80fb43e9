"""The private PostgreSQL: it starts, stops, survives what machines do, and keeps its databases apart."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy

from etl_assets.local import postgres, postgres_programs
from etl_assets.local.postgres import Cluster, PostgresError


def ask(url: str, statement: str) -> Any:
    """Run a statement, and return the first value of its first row."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def server_process(cluster: Cluster) -> int:
    return int((cluster.home / "data/postmaster.pid").read_text().split()[0])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster for tests that leave it running."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), fast=True)
    cluster.start()
    yield cluster
    cluster.stop(immediate=True)


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a row in it, for tests that stop or kill it; each finds it stopped or running."""
    cluster = Cluster(tmp_path_factory.mktemp("mortal"), fast=True)
    cluster.start()
    with psycopg.connect(cluster.create_database("warehouse")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    yield cluster
    cluster.stop(immediate=True)


def holds_its_data(cluster: Cluster) -> bool:
    return cluster.is_running() and ask(cluster.url("warehouse"), "SELECT answer FROM kept") == 42


# --- what it offers


def test_a_new_database_has_postgis_with_its_projections(cluster: Cluster) -> None:
    url = cluster.create_database("geo")
    point = "ST_Transform(ST_SetSRID(ST_Point(-77, 38.9), 4326), 5070)"
    assert ask(url, f"SELECT ST_AsText({point}, 0)") == "POINT(1621623 1926350)"


def test_sorts_by_bytes_knows_unicode_letters_and_utc(cluster: Cluster) -> None:
    url = cluster.url("postgres")
    assert ask(url, "SELECT upper('ñandú')") == "ÑANDÚ"
    assert ask(url, "SELECT 'Z' < 'a'") is True
    assert ask(url, "SHOW timezone") == "UTC"
    assert ask(url, "SHOW jit") == "off"


def test_starting_again_changes_nothing(cluster: Cluster) -> None:
    before = server_process(cluster), cluster.url("warehouse")
    cluster.start()
    assert (server_process(cluster), cluster.url("warehouse")) == before


def test_databases_are_separate_and_created_once(cluster: Cluster) -> None:
    one, two = cluster.create_database("one"), cluster.create_database("two")
    ask(one, "CREATE TABLE t AS SELECT 1 AS a")
    assert ask(two, "SELECT to_regclass('t')") is None
    assert cluster.create_database("one") == one
    assert ask(one, "SELECT a FROM t") == 1


def test_a_database_can_be_the_template_of_another(cluster: Cluster) -> None:
    ask(cluster.create_database("model"), "CREATE TABLE t AS SELECT 7 AS a")
    assert ask(cluster.create_database("copy", template="model"), "SELECT a FROM t") == 7


def test_many_may_create_the_same_database_at_once(cluster: Cluster) -> None:
    with ThreadPoolExecutor(4) as pool:
        urls = set(pool.map(cluster.create_database, ["same"] * 4))
    assert len(urls) == 1
    assert ask(urls.pop(), "SELECT 1") == 1


def test_any_name_is_a_name_and_not_sql(cluster: Cluster) -> None:
    name = """o'brien"; DROP DATABASE postgres; -- /?#%"""
    assert ask(cluster.create_database(name), "SELECT current_database()") == name
    cluster.drop_database(name)
    assert ask(cluster.url("postgres"), "SELECT count(*) FROM pg_database WHERE datname LIKE 'o''%'") == 0


def test_dropping_ends_connections_and_does_not_mind_a_missing_one(cluster: Cluster) -> None:
    with psycopg.connect(cluster.create_database("used")) as connection:
        cluster.drop_database("used")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    cluster.drop_database("used")


# --- who can reach it


def test_only_this_machine_and_only_with_the_password(cluster: Cluster) -> None:
    url = urlsplit(cluster.url("postgres"))
    assert url.hostname == "127.0.0.1"
    assert ask(url.geturl(), "SHOW listen_addresses") == "127.0.0.1"
    assert ask(url.geturl(), "SHOW unix_socket_directories") == ""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.geturl().replace(url.password or "", "wrong"))


def test_variables_that_are_meant_for_another_server_do_not_matter(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {
        "PGHOSTADDR": "127.0.0.9",
        "PGSSLMODE": "require",
        "PGGSSENCMODE": "require",
        "PGCHANNELBINDING": "require",
        "PGTARGETSESSIONATTRS": "read-only",
        "PGOPTIONS": "-c default_transaction_read_only=on",
    }
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    assert ask(cluster.create_database("here"), "SHOW default_transaction_read_only") == "off"
    address = cluster.url("here").replace("postgresql://", "postgresql+psycopg2://")  # as Dagster's storage connects
    with sqlalchemy.create_engine(address).connect() as connection:
        assert connection.exec_driver_sql("SHOW default_transaction_read_only").scalar() == "off"


def test_the_password_is_for_the_owner_only(cluster: Cluster) -> None:
    password = cluster.home / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert len(password.read_text()) >= 32
    assert stat.S_IMODE((cluster.home / "data").stat().st_mode) == 0o700


# --- what machines do to it


def test_stop_and_start_keep_data_and_address(mortal: Cluster) -> None:
    mortal.start()
    url = mortal.url("warehouse")
    mortal.stop()
    assert not mortal.is_running()
    mortal.stop()  # nothing to do
    mortal.start()
    assert mortal.url("warehouse") == url
    assert holds_its_data(mortal)


def test_starts_after_the_server_was_killed(mortal: Cluster) -> None:
    mortal.start()
    with psycopg.connect(mortal.url("warehouse")):  # a process of the server's, which has to notice
        os.kill(server_process(mortal), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while mortal.is_running() and time.monotonic() < deadline:
        time.sleep(0.01)
    mortal.start()
    assert holds_its_data(mortal)


def test_starts_when_its_process_number_belongs_to_a_stranger(mortal: Cluster) -> None:
    """As after a reboot: the number in the pid file is in use, by somebody else."""
    mortal.start()
    mortal.stop(immediate=True)
    (mortal.home / "data/postmaster.pid").write_text(f"{os.getpid()}\n{mortal.home / 'data'}\n")
    assert not mortal.is_running()
    mortal.start()
    assert holds_its_data(mortal)


def test_moves_to_another_port_when_its_own_is_taken(mortal: Cluster) -> None:
    mortal.start()
    mortal.stop()
    port = urlsplit(mortal.url("warehouse")).port
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        mortal.start()
        assert urlsplit(mortal.url("warehouse")).port != port
        assert holds_its_data(mortal)


def test_moves_on_when_the_port_is_taken_at_the_last_moment(mortal: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    mortal.stop()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        real, chosen = postgres.free_port, iter([squatter.getsockname()[1]])
        monkeypatch.setattr(postgres, "free_port", lambda wanted: next(chosen, None) or real(0))
        mortal.start()
    assert holds_its_data(mortal)


def test_several_may_start_a_new_cluster_at_once_after_an_interrupted_try(tmp_path: Path) -> None:
    (tmp_path / "new/data.unfinished/base").mkdir(parents=True)
    clusters = [Cluster(tmp_path / "new", fast=True) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(Cluster.start, clusters))
    try:
        assert ask(clusters[0].create_database("warehouse"), "SELECT postgis_lib_version()") >= "3"
        assert not (tmp_path / "new/data.unfinished").exists()
    finally:
        clusters[0].stop(immediate=True)


# --- what it says


def test_says_that_it_was_never_started(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "none")
    assert not cluster.is_running()
    with pytest.raises(PostgresError, match="start it first"):
        cluster.url("warehouse")


def test_says_why_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path, fast=True)
    monkeypatch.setitem(postgres.SETTINGS, "work_mem", "plenty")
    with pytest.raises(PostgresError, match=r'(?s)postgres\.log.*invalid value for parameter "work_mem"'):
        cluster.start()


def test_says_what_to_do_where_nothing_can_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_programs, "_installed", lambda root: [])
    monkeypatch.setattr(postgres_programs, "_cache", lambda home: tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PostgresError, match=r"no apt-get.*ETL_WAREHOUSE_URL"):
        postgres_programs.find_programs(None, tmp_path)


def test_says_that_the_package_sources_have_no_postgis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_programs.Apt, "_apt", lambda *_, **__: "postgresql-13-postgis-3 - too old\n")
    with pytest.raises(PostgresError, match="no PostGIS for PostgreSQL 15 or newer"):
        postgres_programs.Apt(tmp_path, 0).needed_packages()


def test_says_that_its_programs_have_been_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as by a cleaner of caches that has left the folder."""
    monkeypatch.setattr(postgres_programs, "_installed", lambda root: [])
    monkeypatch.setattr(postgres_programs, "_cache", lambda home: tmp_path)
    monkeypatch.setattr(postgres_programs, "_fetch", lambda tree, lock: tree.mkdir())
    with pytest.raises(PostgresError, match=rf"{tmp_path} is no PostgreSQL.*remove it, and run again"):
        postgres_programs.find_programs(None, tmp_path)


def test_says_that_another_version_made_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "data/PG_VERSION").write_text("9\n")
    have = postgres_programs.Programs(15, Path("bin"), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_programs, "_installed", lambda root: [have])
        patch.setattr(postgres_programs, "_cache", lambda home: tmp_path / "cache")
        patch.setattr(postgres_programs, "_fetch", lambda tree, lock: None)
        with pytest.raises(PostgresError, match=r"created by PostgreSQL 9.*postgresql-9-postgis-3"):
            Cluster(tmp_path).start()
