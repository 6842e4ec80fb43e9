"""What starts runs: a sensor for each source, which lands what is new, and one for everything downstream of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import takewhile
from typing import Any

import dagster as dg

from etl_assets.settings import NotConfiguredError, settings
from etl_assets.sources import Source, SourceRefusedError, SourceUnavailableError
from etl_assets.stages.dataset import SPECS, Spec
from etl_assets.stages.landing import validators_of
from etl_assets.storage import connections
from etl_assets.storage.configured import landing_store
from etl_assets.storage.landing import Manifest

#: Tag of the runs that a sensor starts: the version of the source that the run is to land.
VERSION = "etl/source_version"
#: How many runs may try to land one version while they fail for a passing reason, and how many seconds the second
#: waits; each further one waits three times as long.
ATTEMPTS = 4
FIRST_WAIT = 300.0
#: For how long a source may be out of reach before its sensor's ticks fail, in seconds.
PATIENCE = 3600.0
#: After this many seconds a version is asked for once more, whatever the outcome was.
AGAIN = 86400.0
#: Seconds between probes: of our own sources, and of publishers', who count requests and shut out frequent callers.
_OF_OWN, _OF_PUBLISHERS = 30, 3600
_LONGEST_TAG = 500


def source_sensors() -> Iterator[dg.SensorDefinition]:
    """One sensor per landed file: a conditional request, and a run that lands what is new."""
    for spec in list(SPECS.values()):
        if spec.source is not None:
            yield _source_sensor(spec)


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the assets' automation conditions; ours are custom, so it runs in the code server."""
    return _Downstream(
        "downstream",
        target=dg.AssetSelection.all(),
        description="Makes what is out of date, stage after stage.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=15,
        use_user_code_server=True,
    )


class _Downstream(dg.AutomationConditionSensorDefinition):
    """Nearly every asset asks the warehouse in a tick: sharing one connection takes a third less time."""

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> Any:
        """Return the runs to request now."""
        with connections.kept():
            return super().evaluate_tick(context)


def _source_sensor(spec: Spec) -> dg.SensorDefinition:
    source, table = spec.source, spec.key.path[-1]
    assert source is not None
    name = f"{table}_source"

    @dg.sensor(
        name=name,
        target=dg.AssetSelection.assets(spec.key),
        minimum_interval_seconds=_interval(source),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Asks the source of {spec.dataset.title} for a version other than the landed one.",
    )
    def look(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        # A file that Dagster does not know (its storage is new, the lake is not) is asked for like a new one.
        is_known = context.instance.get_latest_materialization_event(spec.key) is not None
        known = landing_store(table).current() if is_known else None
        try:
            version = source.probe(validators_of(known))
        except SourceUnavailableError as error:
            # A failing tick raises an alert. Errors that waiting will not mend, such as a moved file, fail it at once.
            since = float(context.cursor or time.time())
            if time.time() - since > PATIENCE:
                raise
            context.update_cursor(str(since))
            return dg.SkipReason(f"{spec.dataset.title}: the source cannot be asked. {error}")
        if context.cursor:
            context.update_cursor("")
        if version is None:
            published = known.published_at if known else "-"
            return dg.SkipReason(f"Nothing new: the landed file of {published} is the newest")
        # The runs themselves record what was asked for: there is no cursor to lose, or to get ahead of them.
        started = dg.RunsFilter(tags={"dagster/sensor_name": name})
        last = context.instance.get_run_records(started, limit=ATTEMPTS)
        if last and not last[0].dagster_run.is_finished:  # while one lands, nothing is made from the file before
            return dg.SkipReason(f"Version {version}: run {last[0].dagster_run.run_id} is landing what it finds")
        version = _short(version)
        same = list(takewhile(lambda record: record.dagster_run.tags.get(VERSION) == version, last))
        if same and (reason := _why_wait(context.instance, same, known)):
            return dg.SkipReason(f"Version {version}: {reason}")
        # A source may go back to a former version, so the version alone would not do as the key; nor would the number
        # of runs, since people may delete some.
        after = last[0].dagster_run.run_id if last else "none"
        return dg.RunRequest(run_key=f"{name} after {after}: {version}", tags={VERSION: version})

    return look


def _interval(source: Source) -> int:
    """How often a source is asked, in seconds."""
    with suppress(NotConfiguredError):  # wrong settings are reported where they are needed
        if settings().sources == "live" and getattr(source, "live", None):
            return _OF_PUBLISHERS
    return _OF_OWN


def _short(version: str) -> str:
    """A version as a tag: Dagster indexes tags, and the versions of a hundred parts would be too long for its index."""
    return version if len(version) <= _LONGEST_TAG else hashlib.sha256(version.encode()).hexdigest()


def _why_wait(instance: dg.DagsterInstance, attempts: list[dg.RunRecord], known: Manifest | None) -> str | None:
    """Why a version that was asked for (newest attempt first) is not asked for again now; None if it is.

    A run does not count if the lake that it landed the version in is gone, or if another version was landed after it.
    Once a day a version is asked for again whatever the outcome was: much is mended without notice.
    """
    run, ended = attempts[0].dagster_run, attempts[0].end_time or 0
    if not 0 <= time.time() - ended <= AGAIN:  # a time ahead is of a clock that was set back since
        return None
    if run.is_success:
        is_newest = known is not None and datetime.fromisoformat(known.fetched_at).timestamp() <= ended
        return f"run {run.run_id} has dealt with it" if is_newest else None
    for record in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records:
        event = record.event_log_entry.dagster_event
        error = event.step_failure_data.error if event else None
        while error is not None:
            if error.cls_name == SourceRefusedError.__name__:
                return f"refused, see run {run.run_id}. The last good file stays until the source has another one"
            error = error.cause
    if len(attempts) >= ATTEMPTS:
        return f"{ATTEMPTS} attempts did not succeed, see run {run.run_id}; materialize it when the cause is fixed"
    wait = ended + FIRST_WAIT * 3 ** (len(attempts) - 1) - time.time()
    return f"run {run.run_id} did not succeed; another attempt in {wait:.0f} s" if wait > 0 else None
