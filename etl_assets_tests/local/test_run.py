"""`./dev run` that is killed or ended, wherever it is: the next one leaves everything as if nothing had happened.

Four moments that a process is held at; moments by chance are those of the chaos tests.
"""

from __future__ import annotations

import logging
import resource
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import psycopg
import pytest
from rich.console import Console
from rich.progress import Progress

from etl_assets.definitions import defs
from etl_assets.local import embedded
from etl_assets.local import run as module
from etl_assets.local.__main__ import main
from etl_assets.local.databases import DATABASES
from etl_assets.local.postgres import Cluster
from etl_assets.local.report import Outcome
from etl_assets.local.routes import Request
from etl_assets.local.run import Driver, _batches, _chain, _Work
from etl_assets.local.source_server import ROUTES, serve
from etl_assets.stages.dataset import SPECS
from etl_assets.stages.landing import ACCEPT_SHRUNK, ANEW
from etl_assets.stages.staleness import State
from etl_assets.storage.lake import Lake
from etl_assets.storage.transaction import WarehouseError
from etl_assets_tests.contents import bookkeeping, differences, in_lake, lake_agrees_with_warehouse, rows
from etl_assets_tests.held import Waiter, held_at_commit, held_at_insert
from etl_assets_tests.house import House, ephemeral
from etl_assets_tests.local.commands import Dev


@dataclass
class Gate:
    """A route of the source server that can be shut: who asks for a file then waits."""

    opened: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Request) -> None:
        """Let a request pass to the replay of files, or wait."""
        if request.method == "GET" and not self.opened.is_set():
            self.reached.set()
            self.opened.wait()


@dataclass(frozen=True)
class Separate:
    """A house whose work is done by processes that can be killed."""

    house: House
    dev: Dev
    dagster_url: str
    gate: Gate

    @property
    def lake(self) -> Lake:
        return Lake(self.dev.settings["ETL_LAKE_URL"])

    def kill_at(self, moment: AbstractContextManager[Waiter]) -> None:
        """Start `./dev run`, and kill it with -9 at a moment."""
        with moment as wait:
            command = self.dev.start("run", "protest_events")
            try:
                wait(1, command.is_running)
            finally:
                command.kill()
            # Its sessions end with it; the server would notice only when it next has something to say to them.
            with psycopg.connect(self.dagster_url) as connection:
                query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s)"
                others = " AND wait_event = 'advisory'"
                connection.execute(
                    query + others, ([urlsplit(self.house.warehouse_url).path[1:], connection.info.dbname],)
                )

    def interrupt_at(self, moment: AbstractContextManager[Waiter]) -> None:
        """Start `./dev run`, and press Ctrl-C at a moment: it ends, and does not go on with other work."""
        with moment as wait:
            command = self.dev.start("run", "protest_events")
            wait(1, command.is_running)
            command.interrupt()
            code, printed = command.finish()
            assert code == 130, printed
            assert "Traceback" not in printed
        assert self.unfinished_runs() == 0

    @contextmanager
    def landing(self) -> Generator[Waiter]:
        """The moment when the source has been asked for its file and has not answered yet."""
        self.gate.opened.clear()
        self.gate.reached.clear()

        def wait(sessions: int, is_going_on: Callable[[], bool]) -> None:
            while not self.gate.reached.wait(0.02):
                assert is_going_on()

        yield wait
        self.gate.opened.set()

    def event(self, asset: str) -> AbstractContextManager[Waiter]:
        """The moment when an asset is published, and Dagster is about to be told."""
        stage, table = asset.split(".")
        condition = f"""NEW.dagster_event_type = 'ASSET_MATERIALIZATION' AND NEW.asset_key = '["{stage}", "{table}"]'"""
        return held_at_insert(self.dagster_url, "public.event_logs", condition)

    def unfinished_runs(self) -> int:
        with psycopg.connect(self.dagster_url) as connection:
            query = "SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE')"
            [[found]] = connection.execute(query).fetchall()
            return int(found)


@pytest.fixture
def separate(cluster: Cluster, house: House, tmp_path: Path) -> Iterator[Separate]:
    gate = Gate()
    gate.opened.set()
    dagster_url = cluster.create_database(urlsplit(house.warehouse_url).path[1:] + "_dagster")
    warehouse_url = cluster.create_database(urlsplit(house.warehouse_url).path[1:] + "_separate")
    with serve(house.data, as_of=house.as_of, routes={**ROUTES, "protest_events": gate}) as url:
        settings = {
            "ETL_WAREHOUSE_URL": warehouse_url,
            "ETL_DAGSTER_STORAGE_URL": dagster_url,
            "ETL_LAKE_URL": str(tmp_path / "separate" / "lake"),
            "ETL_LOCAL_SOURCES_URL": url,
            # Sources that these tests do not ask: a PostgreSQL of their own would be started for them.
            **{f"ETL_{source.upper()}_URL": "postgresql://127.0.0.1:9/none" for source in DATABASES},
        }
        (tmp_path / "separate").mkdir()
        yield Separate(
            replace(house, warehouse_url=warehouse_url), Dev(tmp_path / "separate", settings), dagster_url, gate
        )
        gate.opened.set()
    for name in (dagster_url, warehouse_url):
        cluster.drop_database(urlsplit(name).path[1:])


@pytest.mark.long
def test_a_run_killed_anywhere_is_made_good_by_the_next(house: House, separate: Separate) -> None:
    command = separate.dev.start("run", "protest_events")
    house.has_run()
    assert command.finish()[0] == 0
    first = rows(house)
    assert differences(first, rows(separate.house)) == []

    house.publish("2025-04-04")  # for both: they have the same sources
    warehouse = separate.house.warehouse_url
    separate.interrupt_at(separate.landing())
    separate.kill_at(held_at_insert(warehouse, "raw.protest_events", "NEW._source_row > 200"))
    assert differences(first, rows(separate.house)) == []
    separate.kill_at(held_at_commit(warehouse, "NEW.asset = 'refined.protest_events'"))
    assert not lake_agrees_with_warehouse(separate.house, separate.lake), "it was killed between the two"
    assert rows(separate.house)["refined.protest_events"].equals(first["refined.protest_events"])
    separate.kill_at(separate.event("refined.protest_events"))
    code, printed = separate.dev.do("run", "protest_events")
    assert code == 0, printed

    assert house.run(), house.failures()
    assert differences(rows(house), rows(separate.house)) == []
    assert in_lake(separate.lake) == in_lake(house.lake)
    assert bookkeeping(separate.house) == bookkeeping(house)
    assert lake_agrees_with_warehouse(separate.house, separate.lake)
    assert separate.unfinished_runs() == 0
    code, printed = separate.dev.do("run", "protest_events")
    assert code == 0
    assert "nothing new" in printed


@pytest.mark.long
def test_dagsters_own_storage_that_goes_away_is_named(cluster: Cluster, separate: Separate) -> None:
    """What a person has to do is the last thing that is said, after what Dagster says of its attempts."""
    assert separate.dev.do("run", "us_counties")[0] == 0
    with separate.event("landing.us_counties") as wait:
        command = separate.dev.start("run", "--anew", "us_counties")
        wait(1, command.is_running)
        cluster.drop_database(urlsplit(separate.dagster_url).path[1:])
    code, printed = command.finish()
    assert code == 1
    assert "Dagster's own storage at 127.0.0.1:" in printed.splitlines()[-1]


def test_ids_are_given_in_the_same_order_whatever_was_cut_off_before(house: House) -> None:
    """A run that made every event and was killed before Dagster knew of the last days, nor was eventdata made."""
    house.has_run()
    eventdata = house.frame("presentation.eventdata")
    with psycopg.connect(house.warehouse_url) as connection:
        connection.execute("DROP TABLE presentation.eventdata")
        connection.execute(
            "DELETE FROM etl.publications WHERE asset = 'refined.protest_events' AND partition > '2025-02-20'"
        )
    for path in house.objects():
        if path.startswith(("presentation/eventdata/", "identities/eventdata")):
            house.lake.delete(path)
    assert house.run(), house.failures()
    assert house.frame("presentation.eventdata").equals(eventdata)


def test_a_full_disk_and_a_database_that_goes_away_leave_the_last_good_data(house: House, cluster: Cluster) -> None:
    house.has_run()
    events = house.frame("refined.protest_events")
    for table in ("raw/protest_events", "presentation/county_protests_monthly"):
        # As a run leaves it that is killed before the warehouse has a partition, which the source then takes back.
        object_of_a_month = next(path for path in house.objects() if path.startswith(f"{table}/20"))
        house.lake.put(f"{table}/2017-01-01.parquet", house.lake.get(object_of_a_month) or b"")
    house.publish("2025-04-04")
    house.materialize("landing/protest_events")
    house.materialize("raw/protest_events")

    with no_file_larger_than(2048):
        assert not house.run()
    assert "Cannot write" in house.failures()
    assert "check that the lake has space" in house.failures()
    assert house.frame("refined.protest_events").equals(events)

    with held_at_insert(house.warehouse_url, "refined.protest_events", "NEW.event_date > '2017-02-01'") as wait:

        def stop() -> None:
            wait()
            cluster.stop(immediate=True)

        stopper = threading.Thread(target=stop)
        stopper.start()
        with pytest.raises(WarehouseError, match="cannot be reached"):
            house.run()
        stopper.join()
    cluster.start()
    assert house.frame("refined.protest_events").equals(events)

    assert house.run(), house.failures()
    assert house.value("SELECT count(*) FROM refined.protest_events") == 697
    assert lake_agrees_with_warehouse(house, house.lake)
    assert house.run(), house.failures()
    assert house.made() == {}


def test_what_loses_its_place_while_it_is_made_from_is_said_to_be_out_of_date(house: House) -> None:
    """No step fails of it, and the command says with its status that it has to run again."""
    house.has_run("us_counties")
    house.lake.delete("refined/us_counties/all.parquet")
    held = threading.Event()

    def lose() -> None:
        with held_at_commit(house.warehouse_url, "NEW.asset = 'refined.us_counties'") as wait:
            held.set()
            wait()
            house.lake.delete("raw/us_counties/all.parquet")

    loser = threading.Thread(target=lose)
    loser.start()
    held.wait()
    assert not house.run()
    loser.join()
    assert "failed raw/us_counties: is still out of date" in house.printed


def test_what_has_landed_and_dagster_does_not_know_of_is_landed(house: House) -> None:
    """Such as by a run that was killed in between: the asset would be missing for ever."""
    house.has_run("us_counties")
    counties = SPECS[dg.AssetKey(["landing", "us_counties"])]
    with ephemeral() as another:
        for instance, is_new in ((house.instance, False), (another, True)):
            driver = Driver(defs, instance, Console())
            assert driver._has_news(counties, State.of(instance, [counties])) == is_new


def test_what_waits_for_something_else_is_not_made_in_the_run_of_what_it_is_made_from() -> None:
    """It would be made of what is not there yet, or of what is about to be made anew."""
    events, eventdata, baseline = (
        SPECS[dg.AssetKey(key.split("/"))]
        for key in ("refined/protest_events", "presentation/eventdata", "refined/eventdata_baseline")
    )
    with ephemeral() as instance:
        state = State(instance, (), {spec.table.full_name: {} for spec in SPECS.values() if spec.table})
        assert _chain(events, ["2025-02-12"], [events, eventdata], state) == [events, eventdata]
        assert _chain(events, ["2025-02-12"], [events, baseline, eventdata], state) == [events]


@pytest.mark.parametrize("datasets", [(), ("us_counties",), ("protest_events",)])
def test_anew_is_of_what_is_named_and_of_everything_if_nothing_is(
    datasets: tuple[str, ...],
) -> None:
    counties = SPECS[dg.AssetKey(["landing", "us_counties"])]
    with ephemeral() as instance:
        driver = Driver(defs, instance, Console(), datasets, anew=True)
        assert driver._is_landed_anew(counties) == (datasets != ("protest_events",))
        assert not Driver(defs, instance, Console(), datasets)._is_landed_anew(counties)


def test_of_what_has_shrunk_only_what_is_landed_anew_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has looked at the sources of the other datasets that it is made from."""
    told: list[set[str]] = []

    def execute(*given: Any, **more: Any) -> SimpleNamespace:
        told.append(given[3].keys() - {"etl/process"})
        return SimpleNamespace(all_events=[])

    monkeypatch.setattr(module, "execute", execute)
    counties = SPECS[dg.AssetKey(["landing", "us_counties"])]
    with ephemeral() as instance, Progress(disable=True) as progress:
        for accept_shrunk in (True, False):
            driver = Driver(defs, instance, Console(), anew=True, accept_shrunk=accept_shrunk)
            driver.outcomes = {"landing/us_counties": Outcome()}
            for anew in (True, False):
                driver._materialize(_Work([counties], anew=anew), progress)
    assert told == [{ANEW, ACCEPT_SHRUNK}, set(), {ANEW}, set()]


def test_a_run_that_failed_before_any_step_did_is_told_of_all_that_it_was_to_make(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is landed is never out of date by itself: nothing else would tell."""
    ended = SimpleNamespace(all_events=[dg.DagsterEvent("PIPELINE_FAILURE", "job", message="it lacks a resource")])
    monkeypatch.setattr(module, "execute", lambda *given, **more: ended)
    work = [SPECS[dg.AssetKey(["landing", name])] for name in ("us_counties", "protest_events")]
    with ephemeral() as instance, Progress(disable=True) as progress:
        driver = Driver(defs, instance, Console())
        driver.outcomes = {spec.key.to_user_string(): Outcome() for spec in work}
        driver._materialize(_Work(work), progress)
    assert [outcome.failures for outcome in driver.outcomes.values()] == [["it lacks a resource"]] * 2


def test_partitions_are_made_in_their_order_so_many_at_a_time_as_the_dataset_says() -> None:
    """Ids are given in the order in which partitions are made."""
    events = SPECS[dg.AssetKey(["refined", "protest_events"])]
    spec = replace(events, dataset=replace(events.dataset, batch=2))
    days = [f"2025-01-{day:02}" for day in range(1, 6)]
    assert list(_batches(spec, dict.fromkeys([days[n] for n in (4, 0, 3, 1, 2)]))) == [days[:2], days[2:4], days[4:]]
    assert list(_batches(spec, ())) == []


@pytest.mark.parametrize(
    ("given", "anew", "accept_shrunk"),
    [([], False, False), (["--anew"], True, False), (["--accept-shrunk"], True, True)],
)
def test_the_command_runs_what_it_is_given(
    given: list[str], anew: bool, accept_shrunk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit status is that of the run."""
    told: list[tuple[list[str], dict[str, bool]]] = []

    def run(datasets: list[str], **options: bool) -> int:
        told.append((datasets, options))
        return 3

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(embedded, "up", lambda **options: None)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    assert main(["run", *given, "us_counties"]) == 3
    assert told == [(["us_counties"], {"anew": anew, "accept_shrunk": accept_shrunk})]


def test_what_shrank_is_accepted_of_named_datasets_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Of all sources at once, nobody has looked at each."""
    with pytest.raises(SystemExit):
        main(["run", "--accept-shrunk"])
    assert "--accept-shrunk: name the datasets whose sources you have looked at" in capsys.readouterr().err


@contextmanager
def no_file_larger_than(size: int) -> Generator[None]:
    """A disk that is full for all but small files, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
