"""Alerts: every kind of trouble, told once for each cause, to every receiver, whatever becomes of the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_shared.error import SerializableErrorInfo

from etl_assets.automation.problems import Problem, failed_runs
from etl_assets.automation.receivers import DeliveryError, Mail, Message, Webhook, receivers
from etl_assets.local.in_process import execute
from etl_assets_tests.automation.servers import Hook, Mailbox, Notified, mail_server, sns_topic, webhook
from etl_assets_tests.automation.test_conditions import publish_with, under_way
from etl_assets_tests.faults import Fault
from etl_assets_tests.house import House

FAULT = Fault.status(404)
EVENTS, COUNTIES = "refined/protest_events", "landing/us_counties"
DAYS = ("2025-02-12", "2025-02-13", "2025-02-14")


@dataclass
class Alerts:
    """The alerts' sensor, with its cursor kept from tick to tick."""

    house: House
    hook: Hook
    cursor: str | None = None

    def tick(self) -> list[str]:
        """What one tick has told the webhook."""
        before = len(self.hook.posted)
        sensor = self.house.definitions.resolve_sensor_def("alerts")
        with dg.build_sensor_context(instance=self.house.instance, cursor=self.cursor) as context:
            result = sensor(context)
            self.cursor = context.cursor
        assert isinstance(result, dg.SkipReason)
        self.said = str(result.skip_message)
        return [posted["text"] for posted in self.hook.posted[before:]]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    with webhook() as hook:
        monkeypatch.setenv("ETL_ALERT_WEBHOOK_URL", hook.url)
        yield hook


@pytest.fixture
def house(house: House, tmp_path: Path) -> House:
    """The house with a storage for ticks, which an ephemeral instance has not got."""
    storage = SqliteScheduleStorage.from_local(str(tmp_path / "schedules"))
    storage.register_instance(house.instance)
    house.instance._schedule_storage = storage
    return house


def break_days(house: House, date: str, *days: str) -> None:
    """Publish an event file in which some days have more bad rows than their bound, and run them."""
    publish_with(house, date, [f"{day},Nowhere {n},ZZ" for day in days for n in range(40)])
    house.materialize("raw/protest_events")
    for day in days:  # as a backfill of one run a day
        house.materialize(EVENTS, day, raise_on_error=False)


def test_every_cause_is_told_once_and_again_when_it_comes_back(house: House, hook: Hook) -> None:
    house.has_run()
    alerts = Alerts(house, hook)
    assert alerts.tick() == []

    break_days(house, "2025-03-10", *DAYS[:2])
    (told,) = alerts.tick()
    assert told.startswith("*protest_events: quarantine above its bound*\nAssets: refined/protest_events\n")
    assert "Partitions: 2025-02-12, 2025-02-13\n" in told
    assert "rows break the contract: more than 20 rows and 5%" in told
    assert "wait for its correction" in told
    assert "<http://127.0.0.1:3000/runs/" in told
    assert alerts.tick() == [], "the same cause"
    break_days(house, "2025-03-11", *DAYS)
    assert alerts.tick() == [], "the same cause, and another day of it"

    publish_with(house, "2025-03-12", ["2025-02-12,Albany,NY"])
    house.datasets = ("protest_events",)
    assert house.run(), house.failures()
    assert alerts.tick() == []
    assert alerts.cursor == "{}", "mended"
    break_days(house, "2025-03-13", DAYS[0])
    assert len(alerts.tick()) == 1, "it came back"

    days_that_are_not_next_to_each_other(house)
    a_check_that_fails_no_run(house, alerts)
    a_source_that_cannot_be_fetched(house, alerts)
    a_run_that_is_started_again_by_itself(house, alerts)
    data_gone_stale(house, alerts)
    a_sensor_that_fails(house, alerts)


def days_that_are_not_next_to_each_other(house: House) -> None:
    """A run of two days, both of which fail, while another run has the day between them under way."""
    day, between, other = "2025-02-17", "2025-02-18", "2025-02-19"
    publish_with(house, "2025-03-14", [f"{key},Nowhere {n},ZZ" for key in (DAYS[0], day, other) for n in range(40)])
    house.materialize("raw/protest_events")
    under_way(house, EVENTS, between)
    execute(house.definitions, house.instance, [dg.AssetKey(EVENTS.split("/"))], {}, partitions=[day, other])
    (problem,) = failed_runs(house.instance)
    assert problem.partitions == [DAYS[0], day, other]


def a_check_that_fails_no_run(house: House, alerts: Alerts) -> None:
    house.write("us_counties", "2025-03-14", "counties.geojson", changed_counties(house))
    house.publish("2025-03-14")
    house.materialize(COUNTIES)
    house.materialize("raw/us_counties")
    (told,) = alerts.tick()
    assert told.startswith("*us_counties: the check columns fails*\nAssets: raw/us_counties\n")
    assert "&lt;b&gt;bold&lt;/b&gt;\ufffd[31m is new" in told, "what a source wrote is text"
    assert "/assets/raw/us_counties?view=checks" in told
    known = alerts.cursor
    under_way(house, "raw/us_counties")
    assert alerts.tick() == []
    assert alerts.cursor == known, "what is evaluated anew is not mended yet"


def changed_counties(house: House) -> bytes:
    """The counties with a property more, whose name is markup and a terminal's escape."""
    first = min((house.data / "us_counties").iterdir())
    (file,) = first.iterdir()
    data = file.read_bytes()
    if file.suffix == ".gz":
        import gzip

        data = gzip.decompress(data)
    return data.replace(b'"properties":{', b'"properties":{"<b>bold</b>\\u001b[31m":"x",').replace(
        b'"properties": {', b'"properties": {"<b>bold</b>\\u001b[31m": "x", '
    )


def a_source_that_cannot_be_fetched(house: House, alerts: Alerts) -> None:
    house.faults.always("/protest_events/ccc.csv", FAULT)
    for _ in range(2):
        house.materialize("landing/protest_events", raise_on_error=False)
    (told,) = alerts.tick()
    assert told.startswith("*protest_events: a run failed*\nAssets: landing/protest_events\n")
    assert "answered HTTP 404" in told
    house.faults.clear()


def a_run_that_is_started_again_by_itself(house: House, alerts: Alerts) -> None:
    """A run whose process was killed: Dagster retries it, and says so on the run."""
    job = house.definitions.resolve_implicit_global_asset_job_def()
    run = house.instance.create_run_for_job(
        job, asset_selection=frozenset({dg.AssetKey(["landing", "us_counties"])}), tags={"dagster/will_retry": "true"}
    )
    house.instance.report_run_failed(run, "Its process was killed")
    assert alerts.tick() == []
    last = house.instance.create_run_for_job(job, asset_selection=run.asset_selection)
    house.instance.report_run_failed(last, "Its process was killed")
    (told,) = alerts.tick()
    assert told.startswith("*us_counties: a run failed*")
    assert "Its process was killed" in told


def data_gone_stale(house: House, alerts: Alerts) -> None:
    """What Dagster's freshness daemon writes down when a policy is broken."""
    change = FreshnessStateChange(
        key=dg.AssetKey(["landing", "protest_events"]),
        new_state=FreshnessState.FAIL,
        previous_state=FreshnessState.PASS,
        state_change_timestamp=0.0,
    )
    house.instance.report_runless_asset_event(change)
    (told,) = alerts.tick()
    assert told.startswith("*protest_events: stale*\nAssets: landing/protest_events\n")
    assert "Nothing has been landed for more than 21 days" in told


def a_sensor_that_fails(house: House, alerts: Alerts) -> None:
    """The ticks that the daemon writes down of sensors that raised, all for the same reason."""
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(), location_name="etl_assets")
    repository = RemoteRepositoryOrigin(location, "__repository__")
    names = ("gho_source", "treasury_title_xii_source")
    states = [
        InstigatorState(RemoteInstigatorOrigin(repository, name), InstigatorType.SENSOR, InstigatorStatus.RUNNING)
        for name in names
    ]
    for state in states:
        house.instance.add_instigator_state(state)

    def tick(status: TickStatus, error: str | None = None) -> None:
        cause = SerializableErrorInfo(f"KeyError: {error}\n", [], "KeyError")
        wrapped = "dagster._core.errors.SensorExecutionError: Error occurred during the execution of evaluation_fn\n"
        info = SerializableErrorInfo(wrapped, [], "SensorExecutionError", cause) if error else None
        for state in states:
            house.instance.create_tick(
                TickData(
                    state.instigator_origin_id, state.instigator_name, InstigatorType.SENSOR, status, time.time(),
                    error=info, selector_id=state.selector_id,
                )
            )  # fmt: skip

    tick(TickStatus.FAILURE, "'value'")
    (told,) = alerts.tick()
    about = "sensor gho_source, sensor treasury_title_xii_source"
    assert told.startswith(f"*{about}: the tick fails*\nWhat is wrong: KeyError: 'value'")
    assert "/locations/__repository__@etl_assets/sensors/gho_source|" in told
    tick(TickStatus.FAILURE, "'value'")
    assert alerts.tick() == []
    tick(TickStatus.SKIPPED)
    assert alerts.tick() == []
    tick(TickStatus.FAILURE, "'value'")
    assert len(alerts.tick()) == 1


def test_a_receiver_that_is_down_loses_nothing_and_breaks_no_other(
    house: House, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server() as box, sns_topic() as topic:
        monkeypatch.setenv("ETL_ALERT_SMTP_URL", box.url)
        monkeypatch.setenv("ETL_ALERT_EMAIL_TO", "anna@example.org, ben@example.org")
        monkeypatch.setenv("ETL_ALERT_SNS_TOPIC", topic.arn)
        monkeypatch.setenv("AWS_ENDPOINT_URL", topic.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        house.faults.always("/protest_events/ccc.csv", FAULT)
        house.materialize("landing/protest_events", raise_on_error=False)
        alerts = Alerts(house, hook)
        hook.status = 503
        assert alerts.tick() == []
        assert "the webhook answered HTTP 503: it is tried again at the next tick" in alerts.said
        everyone_else_was_told(box, topic)
        hook.status = 200
        (told,) = alerts.tick()
        assert "answered HTTP 404" in told
        assert alerts.tick() == []
        assert len(box.mails) == 1
        assert topic.messages() == []
    # The servers are gone, and none of their addresses, which hold secrets, is told.
    house.materialize("landing/us_counties")
    house.faults.always("/us_counties/counties.geojson", FAULT)
    house.materialize("landing/us_counties", raise_on_error=False)
    alerts.cursor = None
    assert len(alerts.tick()) == 2
    assert "the mail server did not accept the message (ConnectionRefusedError)" in alerts.said
    assert "SNS did not accept the message (EndpointConnectionError)" in alerts.said
    assert "ssword" not in alerts.said


def test_an_address_that_is_none_keeps_nobody_from_being_told_once(
    house: House, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it told: it may hold a password. Nor does a receiver that is configured by half."""
    monkeypatch.setenv("ETL_ALERT_SMTP_URL", "smtp://etl:hunter2/x@127.0.0.1:9")  # the slash should be %2F
    monkeypatch.setenv("ETL_ALERT_EMAIL_TO", "anna@example.org")
    house.faults.always("/protest_events/ccc.csv", FAULT)
    house.materialize("landing/protest_events", raise_on_error=False)
    alerts = Alerts(house, hook)
    assert len(alerts.tick()) == 1
    assert "e-mail did not accept the message (ValueError): it is tried again" in alerts.said
    assert "hunter2" not in alerts.said
    assert alerts.tick() == []
    monkeypatch.delenv("ETL_ALERT_SMTP_URL")
    alerts.cursor = None
    assert len(alerts.tick()) == 1
    assert "Alerts by e-mail need both" in alerts.said


def everyone_else_was_told(box: Mailbox, topic: Notified) -> None:
    (mail,) = box.mails
    assert mail["Subject"] == "protest_events: a run failed"
    assert mail["To"] == "anna@example.org, ben@example.org"
    assert "answered HTTP 404" in mail.get_content()
    (message,) = topic.messages()
    assert message["Subject"] == "protest_events: a run failed"
    assert "What to do: " in message["Message"]


def test_a_receiver_that_is_configured_by_half_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert receivers() == ([], [])
    monkeypatch.setenv("ETL_ALERT_SMTP_URL", "smtp://127.0.0.1")
    found, (why,) = receivers()
    assert not found
    assert "ETL_ALERT_EMAIL_TO" in why
    monkeypatch.delenv("ETL_ALERT_SMTP_URL")
    monkeypatch.setenv("ETL_ALERT_SNS_TOPIC", "etl")
    monkeypatch.setenv("ETL_ALERT_WEBHOOK_URL", "http://127.0.0.1/hook")
    (hook,), (why,) = receivers()
    assert hook.name == "webhook"
    assert "is not an ARN" in why


def test_an_example_is_not_what_a_cause_is_known_by() -> None:
    why = (
        "21 of 30 rows break the contract: more than 20 rows and 5%, such as record 3 (isin: state is {}). Nothing was"
    )
    one, other = (Problem("a step failed", "x", why.format(state) + " written.", "", "") for state in ("ZZ", "Q. Q"))
    assert one.cause == other.cause
    assert one.cause != Problem("a step failed", "x", "The source is gone. Nothing was written.", "", "").cause
    first, retry = (
        Problem("a run failed", "x", f"{of} partitions were refused, {others}2025-01-02: 3 of 4 rows", "", "")
        for of, others in (("2 of 3", "the others are published. "), ("2 of 2", ""))
    )
    assert first.cause == retry.cause, "the partitions that are tried again are the refused ones"


def test_a_title_from_a_source_cannot_forge_a_mail(hook: Hook) -> None:
    with mail_server() as box:
        problem = Problem(
            "a run failed", "a title\r\nBcc: x@example.org", "what\nBcc: y@example.org", "advice", "/path"
        )
        Mail(box.url, ["anna@example.org"], "etl@example.org").send(problem.message())
        assert box.mails[0]["Bcc"] is None
        assert "a title" in box.mails[0]["Subject"]
    Webhook(hook.url).send(Message("<!channel>", ["<http://evil|click>"], "http://l"))
    assert hook.posted[-1]["text"] == "*&lt;!channel&gt;*\n&lt;http://evil|click&gt;\n<http://l|Open in Dagster>"
    hook.status = 302
    with pytest.raises(DeliveryError, match="HTTP 302"):
        Webhook(hook.url).send(Message("t", [], "http://l"))
