"""What the daemon asks for, tick by tick, on a real house: what is out of date, once, and nothing else."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster_shared.serdes import deserialize_value, serialize_value

from etl_assets.local.postgres import Cluster
from etl_assets.local.sample import CHANGED_DAYS
from etl_assets.stages.conditions import OutOfDate, _Asked, _Cursor
from etl_assets.stages.dataset import numbered
from etl_assets.stages.staleness import State, in_order
from etl_assets.storage import connections
from etl_assets.storage.lake import Lake
from etl_assets_tests.house import House, ephemeral

LANDINGS = ("landing/protest_events", "landing/us_counties", "landing/eventdata_baseline")
EVENTS, EVENTDATA = "refined/protest_events", "presentation/eventdata"
MONTHLY, SOURCES = "presentation/county_protests_monthly", "presentation/event_sources"
WHOLE: set[str | None] = {None}
Requested = dict[str, set[str | None]]


@dataclass
class Daemon:
    """The daemon's part: ticks whose cursor is stored in between, and runs of what they ask for."""

    house: House
    cursor: str | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def tick(self, after: timedelta = timedelta()) -> Requested:
        """What one tick asks for, now or so long after."""
        cursor = deserialize_value(self.cursor, AssetDaemonCursor) if self.cursor else None
        chosen = dg.AssetSelection.assets(*(spec.key for spec in in_order(self.house.datasets)))
        with connections.kept():  # as the sensor does
            result = dg.evaluate_automation_conditions(
                self.house.definitions,
                self.house.instance,
                asset_selection=chosen,
                cursor=cursor,
                evaluation_time=datetime.now(UTC) + after,
            )
        self.cursor = serialize_value(result.cursor)
        found = {r.key.to_user_string(): set(result.get_requested_partitions(r.key)) for r in result.results}
        requested = {key: partitions for key, partitions in found.items() if partitions}
        self.asked += [(key, partition) for key, partitions in requested.items() for partition in partitions]
        return requested

    def make(self, requested: Requested) -> None:
        """Run what was asked for, in runs of contiguous days as a backfill has them; a run may fail."""
        calendar = {s.key.to_user_string(): numbered(s.partitions) for s in in_order() if s.partitions}
        for key, partitions in requested.items():
            if partitions == WHOLE:
                self.house.materialize(key, raise_on_error=False)
                continue
            days = [(n, day) for day, n in calendar[key].items() if day in partitions]
            for _, run in groupby(enumerate(days), lambda item: item[1][0] - item[0]):
                contiguous = [day for _, (_, day) in run]
                self.house.materialize(key, contiguous[0], contiguous[-1], raise_on_error=False)

    def settle(self) -> list[Requested]:
        """Tick and make until a tick asks for nothing; gives what each asked for."""
        ticks = []
        while requested := self.tick():
            ticks.append(requested)
            assert len(ticks) < 10, ticks
            self.make(requested)
        return ticks


def land(house: House, date: str) -> None:
    """What the sensor of the event file does when a publication is out."""
    house.publish(date)
    house.materialize("landing/protest_events")


def publish_with(house: House, date: str, rows: list[str]) -> None:
    """The first publication with further rows, each "date,locality,state", as another one that is landed."""
    first = gzip.decompress((house.data / "protest_events" / "2025-03-05" / "ccc.csv.gz").read_bytes())
    names = first.split(b"\n", 1)[0].decode().split(",")
    assert names[:3] == ["date", "locality", "state"]
    more = "".join(row + "," * (len(names) - 3) + "\n" for row in rows)
    house.write("protest_events", date, "ccc.csv", first + more.encode())
    land(house, date)


def raw_days(house: House) -> dict[str, str]:
    """The days of the raw table with their content."""
    query = "SELECT partition, content_hash FROM etl.publications WHERE asset = 'raw.protest_events'"
    return {day: content for day, content in house.sql(query) if day[:2] == "20"}


def out_of_date(house: House) -> dict[str, set[str]]:
    """Everything that is out of date."""
    specs = in_order()
    state = State.of(house.instance, specs)
    return {spec.key.to_user_string(): keys for spec in specs if (keys := state.out_of_date(spec))}


def test_a_fresh_install_is_made_stage_after_stage(house: House) -> None:
    """Nothing is there to begin with, and the first tick sees files that were landed before it."""
    daemon = Daemon(house)
    assert daemon.tick() == {}
    daemon = Daemon(house)
    for landing in LANDINGS:
        house.materialize(landing)
    ticks = daemon.settle()
    days = set(raw_days(house))
    assert ticks == [
        {"raw/protest_events": WHOLE, "raw/us_counties": WHOLE, "raw/eventdata_baseline": WHOLE},
        {"refined/us_counties": WHOLE, "refined/eventdata_baseline": WHOLE},
        {EVENTS: days},
        {EVENTDATA: days, MONTHLY: WHOLE, SOURCES: WHOLE},
    ]
    assert out_of_date(house) == {}


def test_what_dev_run_has_made_is_not_asked_for(house: House) -> None:
    house.has_run()
    daemon = Daemon(house)
    assert daemon.tick() == {}
    assert daemon.tick() == {}


def test_a_tick_asks_the_warehouse_for_all_assets_with_one_connection(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.has_run()
    connect, made = psycopg.connect, []

    def counted(*given: Any, **more: Any) -> psycopg.Connection:
        made.append(given)
        return connect(*given, **more)

    monkeypatch.setattr(psycopg, "connect", counted)
    repository = house.definitions.get_repository_def()
    with dg.build_sensor_context(instance=house.instance, repository_def=repository) as context:
        assert repository.get_sensor_def("downstream").evaluate_tick(context).run_requests == []
    assert len(made) == 1


def test_what_the_lake_has_lost_is_looked_for_every_ten_minutes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing costs money on S3; `./dev run` and `./dev doctor` look each time."""
    house.has_run()
    daemon, listed = Daemon(house), list[str]()
    listing = Lake.list

    def counted(self: Lake, prefix: str) -> dict[str, int]:
        listed.append(prefix)
        return listing(self, prefix)

    monkeypatch.setattr(Lake, "list", counted)
    assert daemon.tick() == {}
    assert listed
    listed.clear()
    house.lake.delete("refined/protest_events/2025-02-12.parquet", "presentation/event_sources/all.parquet")
    assert daemon.tick() == daemon.tick(timedelta(minutes=9)) == {}
    assert not listed
    requested = daemon.tick(timedelta(minutes=11))
    assert requested == {EVENTS: {"2025-02-12"}}
    daemon.make(requested)
    assert daemon.tick(timedelta(minutes=12)) == {SOURCES: WHOLE}


def test_what_dagster_does_not_know_of_is_out_of_date(house: House) -> None:
    """Such as after Dagster's own storage was lost: the tables are there, the assets would be missing for ever."""
    house.has_run()
    with ephemeral() as another:
        state = State.of(another, in_order(house.datasets))
        found = {spec.key.to_user_string(): state.out_of_date(spec) for spec in in_order(house.datasets)}
    days = set(raw_days(house))
    assert (found[EVENTS], found[EVENTDATA], found[MONTHLY]) == (days, days, {""})


def test_the_same_file_again_asks_for_nothing(house: House) -> None:
    """Upstreams materialized anew with the same content are events, but nothing is out of date."""
    house.has_run()
    daemon = Daemon(house)
    daemon.tick()
    for key in (*LANDINGS, "raw/protest_events", "refined/us_counties"):
        house.materialize(key)
    house.materialize(EVENTS, "2025-02-11", "2025-02-13")
    assert daemon.tick() == {}


def test_a_corrected_publication_asks_for_the_days_that_differ(house: House) -> None:
    house.has_run()
    daemon, before = Daemon(house), raw_days(house)
    land(house, "2025-04-04")
    ticks = daemon.settle()
    after = raw_days(house)
    differ = {day for day in before.keys() | after.keys() if before.get(day) != after.get(day)}
    assert differ > CHANGED_DAYS
    assert differ < after.keys()
    assert ticks == [
        {"raw/protest_events": WHOLE},
        {EVENTS: differ},
        {EVENTDATA: differ, MONTHLY: WHOLE, SOURCES: WHOLE},
    ]
    assert out_of_date(house) == {}


def test_a_refused_day_is_asked_for_once_and_nothing_follows_from_it(house: House) -> None:
    """The day has more bad rows than its bound: it keeps its last good state until its source has another one."""
    house.has_run()
    day = "2025-02-12"
    good = house.value("SELECT count(*) FROM refined.protest_events WHERE event_date = %s", day)
    daemon = Daemon(house)
    publish_with(house, "2025-03-10", [f"{day},Nowhere {n},ZZ" for n in range(40)])
    assert daemon.settle() == [{"raw/protest_events": WHOLE}, {EVENTS: {day}}]
    assert out_of_date(house) == {EVENTS: {day}}
    assert house.value("SELECT count(*) FROM refined.protest_events WHERE event_date = %s", day) == good

    # A restarted daemon has its cursor; one that lost it asks once more.
    assert Daemon(house, daemon.cursor).tick() == {}
    forgetful = Daemon(house)
    assert forgetful.settle() == [{EVENTS: {day}}]
    assert forgetful.tick() == {}

    # Another publication does not ask for the day again, unless it changes the day.
    publish_with(house, "2025-03-11", [f"{day},Nowhere {n},ZZ" for n in range(40)] + ["2025-02-13,Albany,NY"])
    later = daemon.settle()
    assert later[:2] == [{"raw/protest_events": WHOLE}, {EVENTS: {"2025-02-13"}}]
    assert daemon.asked.count((EVENTS, day)) == 1
    publish_with(house, "2025-03-12", ["2025-02-13,Albany,NY", f"{day},Albany,NY"])
    assert {EVENTS: {day}} in daemon.settle()
    assert out_of_date(house) == {}
    assert house.value("SELECT count(*) FROM refined.protest_events WHERE event_date = %s", day) == good + 1


def test_what_could_not_be_made_is_asked_for_again_after_a_while(house: House, cluster: Cluster) -> None:
    """The warehouse was gone; each time the wait is twice as long, and what has been made is forgotten."""
    house.has_run()
    daemon, day = Daemon(house), "2025-02-12"
    publish_with(house, "2025-03-10", [f"{day},Albany,NY"])
    daemon.make(daemon.tick())
    requested = daemon.tick()
    assert requested == {EVENTS: {day}}
    cluster.stop(immediate=True)
    daemon.make(requested)
    cluster.start()
    waited = [minutes for minutes in range(0, 80, 5) if daemon.tick(timedelta(minutes=minutes))]
    assert waited == [10, 30, 70]
    assert set(daemon.asked[-3:]) == {(EVENTS, day)}
    daemon.make({EVENTS: {day}})
    assert EVENTS not in daemon.tick(timedelta(minutes=80))
    assert out_of_date(house).keys() == {EVENTDATA, MONTHLY, SOURCES}


def test_a_day_that_fails_again_and_again_waits_though_ticks_see_it_under_way(house: House) -> None:
    """Its inputs are those that it was made from: it is out of date for its last attempt alone."""
    house.has_run()
    daemon, day = Daemon(house), "2025-02-12"
    assert daemon.tick() == {}
    house.instance.report_run_failed(under_way(house, EVENTS, day))
    asked = []
    for minutes in range(0, 40, 2):
        if daemon.tick(timedelta(minutes=minutes)) == {EVENTS: {day}}:
            asked.append(minutes)
            run = under_way(house, EVENTS, day)
            assert daemon.tick(timedelta(minutes=minutes + 1)) == {}
            house.instance.report_run_failed(run)
    assert asked == [0, 10, 30]


def test_a_day_that_the_lake_has_lost_and_that_cannot_be_made_waits_longer_each_time(house: House) -> None:
    """Between two listings it looks like one that has been made."""
    house.has_run()
    daemon = Daemon(house)
    assert daemon.tick() == {}
    house.lake.delete("refined/protest_events/2025-02-12.parquet")
    waited = [minutes for minutes in range(11, 60, 5) if daemon.tick(timedelta(minutes=minutes))]
    assert waited == [11, 21, 41]


def test_the_longest_wait_is_a_day() -> None:
    """Else what has failed for a week would not be made for another week after its cause is gone."""
    at, asked, times = 0.0, _Asked.after(None, "inputs", 0.0), list[float]()
    while at < 10 * 86400:
        at += 600
        if again := _Asked.after(asked, "inputs", at):
            asked = again
            times.append(at)
    assert {later - earlier for earlier, later in pairwise(times[-5:])} == {86400}


def test_a_day_that_changes_between_request_and_run_is_asked_for_again(house: House) -> None:
    """The run that was asked for may have read the day before it changed."""
    house.has_run()
    daemon, day = Daemon(house), "2025-02-12"
    publish_with(house, "2025-03-10", [f"{day},Albany,NY"])
    daemon.make(daemon.tick())
    assert daemon.tick() == {EVENTS: {day}}
    assert daemon.tick() == {}
    publish_with(house, "2025-03-11", [f"{day},Albany,NY", f"{day},Buffalo,NY"])
    daemon.make(daemon.tick())
    assert daemon.tick() == {EVENTS: {day}}


def test_nothing_is_asked_for_while_it_or_what_it_is_made_from_is_being_made(house: House) -> None:
    """Such as by `./dev run` in another terminal; what a killed run left undone is asked for in its turn."""
    house.has_run()
    daemon, day = Daemon(house), "2025-02-12"
    publish_with(house, "2025-03-10", [f"{day},Albany,NY"])
    daemon.make(daemon.tick())
    counties = under_way(house, "refined/us_counties")
    assert daemon.tick() == {}
    house.instance.report_run_failed(counties)
    requested = daemon.tick()
    assert requested == {"refined/us_counties": WHOLE}
    daemon.make(requested)
    events = under_way(house, EVENTS, day)
    assert daemon.tick() == {}
    house.instance.report_run_failed(events)
    assert daemon.tick() == {EVENTS: {day}}


def test_a_run_that_begins_in_the_middle_of_a_tick_is_not_taken_for_one_that_failed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster looks first which runs are under way, the condition then what they have not made."""
    house.has_run()
    daemon, begun = Daemon(house), list[dg.DagsterRun]()
    assert daemon.tick() == {}
    evaluate = OutOfDate.evaluate
    for key, partition in ((MONTHLY, None), (EVENTS, "2025-02-12")):

        def begin_and_evaluate(
            self: OutOfDate, context: Any, key: str = key, partition: str | None = partition
        ) -> dg.AutomationResult:
            if context.key.to_user_string() == key:
                begun.append(under_way(house, key, partition))
            return evaluate(self, context)

        with monkeypatch.context() as patched:
            patched.setattr(OutOfDate, "evaluate", begin_and_evaluate)
            assert daemon.tick() == {}
        house.instance.report_run_failed(begun[-1])
        assert daemon.tick() == {key: {partition}}


def under_way(house: House, key: str, partition: str | None = None) -> dg.DagsterRun:
    """A run of an asset that somebody has started."""
    return house.instance.create_run_for_job(
        house.definitions.resolve_implicit_global_asset_job_def(),
        asset_selection=frozenset({dg.AssetKey(key.split("/"))}),
        tags={"dagster/partition": partition} if partition else {},
        status=dg.DagsterRunStatus.STARTED,
    )


@pytest.mark.parametrize("text", [None, "null", "[]", '{"x": {}}', '{"asked": {"a": [1]}}', '{"asked": []}'])
def test_a_cursor_of_another_make_is_an_empty_one(text: str | None) -> None:
    """Such as one that an older version has left."""
    assert _Cursor.read(text) == _Cursor()
