"""What is wrong now, worked out from Dagster's own records: failed runs, failed checks, stale data, failing ticks.

A problem is a state, not an event: nothing that happened while nobody looked is missed. However many partitions, runs
and retries one cause affects, it is one problem; it is gone when its work has been done.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.tags import WILL_RETRY_TAG

from etl_assets.automation.receivers import Message
from etl_assets.logs import plain
from etl_assets.settings import settings
from etl_assets.stages.dataset import SPECS, Spec, spec_of_step
from etl_assets.stages.failures import sentence, why_step_failed
from etl_assets.stages.newest import NEWEST
from etl_assets.stages.run_tags import RunPartitions

#: How many days back failed runs are looked at, and how many of the newest at most.
_DAYS, _RUNS = 7, 100
#: Limits: characters of a sentence, names in a list.
_TEXT, _NAMED = 1500, 10
#: The part of a sentence that quotes an example of the rows it is about.
_AN_EXAMPLE = re.compile(r", such as .*?(?=\. Nothing was written)", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """Something that is wrong now. Within one `kind` and `scope`, the same sentence (`what`) means the same cause."""

    kind: str
    about: str
    what: str
    advice: str
    path: str
    scope: str = ""
    assets: Sequence[str] = ()
    partitions: Sequence[str] = ()
    #: Whether the data in question was published nevertheless.
    is_warning: bool = False

    @property
    def cause(self) -> str:
        """The id of the cause: sentences that differ only in day, run, row or number of rows have the same one."""
        what = _AN_EXAMPLE.sub("", self.what).replace("the others are published. ", "")  # of a retry, there are none
        pattern = re.sub(r"[0-9a-f-]{12,}|\d+", "#", f"{self.kind}\n{self.scope}\n{what}".lower())
        return hashlib.sha256(pattern.encode()).hexdigest()[:12]

    def message(self) -> Message:
        """The message: dataset, partitions, what is wrong, what to do, and where to look."""
        lines = [f"Assets: {some(self.assets)}"] if self.assets else []
        lines += [f"Partitions: {some(self.partitions)}"] if self.partitions else []
        lines += [f"What is wrong: {plain(self.what, _TEXT)}", f"What to do: {self.advice}"]
        title = plain(f"{self.about}: {self.kind}", 200).replace("\n", " ")
        return Message(title, lines, f"{settings().dagster_ui_url.rstrip('/')}{self.path}")


def problems(instance: dg.DagsterInstance) -> list[Problem]:
    """Everything that is wrong now, each cause once."""
    found = [
        *failed_runs(instance),
        *failed_checks(instance),
        *stale_data(instance),
        *failing_ticks(instance),
    ]
    return list({problem.cause: problem for problem in found}.values())


def failed_runs(instance: dg.DagsterInstance) -> Iterator[Problem]:
    """Failed runs whose work has not been done since: one problem per reason, however much it left undone."""
    made = _Made(instance)
    since = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=_days_ago(_DAYS))
    same: dict[str, Problem] = {}
    for record in instance.get_run_records(since, limit=_RUNS):  # newest first: it represents the others
        if record.dagster_run.tags.get(WILL_RETRY_TAG, "").lower() == "true":
            continue
        for problem in _failures(instance, record, made):
            newest = same.setdefault(problem.cause, problem)
            assets = sorted({*newest.assets, *problem.assets})
            datasets = sorted({SPECS[dg.AssetKey(asset.split("/"))].dataset.name for asset in assets})
            same[problem.cause] = replace(
                newest,
                about=some(datasets) or newest.about,
                assets=assets,
                partitions=sorted({*newest.partitions, *problem.partitions}),
            )
    yield from same.values()


def failed_checks(instance: dg.DagsterInstance) -> Iterator[Problem]:
    """Checks whose newest evaluation failed without failing its run; the other checks are reported with the run."""
    log = instance.event_log_storage
    done = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    for key, newest in sorted(log.get_latest_asset_check_execution_by_key(_reported_checks()).items()):
        # While a check is being evaluated again, its last result holds: it would be reported twice otherwise.
        records = [newest] if newest.status in done else log.get_asset_check_execution_history(key, 1, status=done)
        evaluation = records[0].evaluation if records else None
        if evaluation is None or evaluation.passed:
            continue
        spec = SPECS[key.asset_key]
        yield Problem(
            f"the check {key.name} fails",
            about=spec.dataset.name,
            what=evaluation.description or f"{key.name} of {key.asset_key.to_user_string()} has failed",
            advice=_CHECK_ADVICE[key.name],
            path=f"{_page(spec)}?view=checks",
            scope=key.to_user_string(),
            assets=[key.asset_key.to_user_string()],
            is_warning=True,
        )


def stale_data(instance: dg.DagsterInstance) -> Iterator[Problem]:
    """Assets that Dagster's freshness daemon finds to be older than their policy allows."""
    keys = [spec.key for spec in SPECS.values() if spec.source is not None and spec.dataset.stale_after]
    for key, state in sorted(instance.get_freshness_state_records(keys).items()):
        if state.freshness_state == FreshnessState.FAIL:
            spec = SPECS[key]
            yield Problem(
                "stale",
                about=spec.dataset.name,
                what=f"Nothing has been landed for more than {_days(spec)} days",
                advice="Look at the source's sensor in the UI: whether it reaches the source, and what it answers. If "
                "the source is late, nothing is wrong here; if it always is, raise stale_after of the dataset.",
                path=_page(spec),
                scope=key.to_user_string(),
                assets=[key.to_user_string()],
            )


def failing_ticks(instance: dg.DagsterInstance) -> Iterator[Problem]:
    """Sensors and schedules whose newest tick failed: one problem for each reason."""
    ended = [TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE]
    same: dict[str, Problem] = {}
    for state in sorted(instance.all_instigator_state(), key=lambda state: state.instigator_name):
        # Only the last day: what was removed from the code would report its last tick for ever.
        ticks = instance.get_ticks(
            state.instigator_origin_id, state.selector_id, after=_days_ago(1).timestamp(), limit=1, statuses=ended
        )
        if ticks and ticks[0].status == TickStatus.FAILURE:
            kind, name = state.instigator_type.value.lower(), state.instigator_name
            place = state.origin.repository_origin
            where = f"{place.repository_name}@{place.code_location_origin.location_name}"
            path = f"/locations/{where}/{kind}s/{name}"
            problem = Problem("the tick fails", f"{kind} {name}", sentence(ticks[0].error), _TICK_ADVICE, path)
            first = same.setdefault(problem.cause, problem)
            if first is not problem:
                same[problem.cause] = replace(first, about=f"{first.about}, {problem.about}")
    yield from same.values()


@dataclass(frozen=True)
class _Made:
    """What has been made; Dagster is asked once per asset."""

    instance: dg.DagsterInstance
    _at: dict[dg.AssetKey, float] = field(default_factory=dict)
    _unmade: dict[dg.AssetKey, set[str]] = field(default_factory=dict)

    def left(self, spec: Spec, run: dg.DagsterRun, at: float) -> Sequence[str] | None:
        """The partitions of an asset that a run was to make and nobody has made since; None if nothing is left to make.

        Partitions that somebody is working on are still left: a retry that fails is not a new cause.
        """
        if spec.partitions is None:
            if spec.key not in self._at:
                event = self.instance.get_latest_materialization_event(spec.key)
                self._at[spec.key] = event.timestamp if event else 0.0
            return () if self._at[spec.key] < at else None
        if spec.key not in self._unmade:
            log = self.instance.event_log_storage
            attempts = log.get_latest_asset_partition_materialization_attempts_without_materializations(spec.key)
            self._unmade[spec.key] = set(attempts)
        own = RunPartitions.of_tags(run.tags)
        if own is None:
            return None
        left = [key for key in sorted(self._unmade[spec.key]) if own.may_have(key)]
        if left and own.some:
            planned = _events(self.instance, run, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
            had = {event.partition for event in planned if event.asset_key == spec.key}
            left = [key for key in left if key in had]
        return left or None


def _failures(instance: dg.DagsterInstance, record: dg.RunRecord, made: _Made) -> Iterator[Problem]:
    """What a run failed to make and nobody has made since, and why."""
    run, at = record.dagster_run, record.end_time or record.update_timestamp.timestamp()
    since = record.start_time or at  # what this run or a concurrent one has made is done
    targets = {key: made.left(SPECS[key], run, since) for key in run.asset_selection or () if key in SPECS}
    left = {key: partitions for key, partitions in targets.items() if partitions is not None}
    if not left and (targets or _has_succeeded_since(instance, run.job_name, at)):
        return
    events = _events(instance, run, dg.DagsterEventType.STEP_FAILURE)
    path, job = f"/runs/{run.run_id}", f"job {run.job_name}"
    for event in events:
        spec = spec_of_step(event.step_key)
        if spec is None:
            yield Problem("a run failed", job, why_step_failed(event), _RUN_ADVICE, path)
        elif spec.key in left:
            kind, advice = _kind(instance, run, spec)
            key = spec.key.to_user_string()
            yield Problem(
                kind, key, why_step_failed(event), advice, path, assets=[key], partitions=left[spec.key] or ()
            )
    if not events:
        last = _events(instance, run, dg.DagsterEventType.RUN_FAILURE)
        why = (last[-1].message if last else None) or "The run failed before any of its steps began"
        yield Problem("a run failed", job, why, _RUN_ADVICE, path, assets=[key.to_user_string() for key in left])


def _kind(instance: dg.DagsterInstance, run: dg.DagsterRun, spec: Spec) -> tuple[str, str]:
    """What to call an asset's failure, and what to do about it: a failed check says more than a failed run."""
    for event in _events(instance, run, dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        found: Any = event.event_specific_data
        if not found.passed and found.asset_key == spec.key:
            rows = found.metadata.get("quarantined")
            if rows is not None and rows.value and "unaccounted" not in found.metadata:
                return "quarantine above its bound", _QUARANTINE_ADVICE
            return f"the check {found.check_name} fails", _CONTRACT_ADVICE
    return "a run failed", _RUN_ADVICE


def _events(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
    records = instance.get_records_for_run(run.run_id, of_type=kind).records
    return [event for record in records if (event := record.event_log_entry.dagster_event)]


def _has_succeeded_since(instance: dg.DagsterInstance, job: str, at: float) -> bool:
    done = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS])
    last = instance.get_run_records(done, limit=1)
    return bool(last and (last[0].end_time or 0) > at)


_RUN_ADVICE = (
    "The last good data is still there. Fix what the message names; what is out of date is made automatically when its "
    "input changes or after a while, or at once with `./dev run` or Materialize in the UI."
)
_QUARANTINE_ADVICE = (
    "Nothing of these partitions was written, their last good state stays. The check lists the rows: if the source is "
    "wrong, wait for its correction; if the world has changed, change the contract or the bound in the dataset's file."
)
_CONTRACT_ADVICE = (
    "Nothing was written, the last good state stays. The check's metadata has what was found: teach the dataset the "
    "source's new shape if it is here to stay."
)
_TICK_ADVICE = (
    "It is evaluated again automatically. As long as it fails, it starts nothing: its page in the UI has the whole "
    "error."
)
_CHECK_ADVICE = {
    "volume": "The data is published. Check that the source really has so many rows; `etl.changes` has what changed.",
    "columns": "The file is published. Add a new column to the dataset's contract, or ask why one is gone.",
    "files": "The other files were taken. Repair the file under the same name, or remove it; the check names it.",
    "quarantine": "The tables show what was there before. See in quarantine what is wrong with so many rows at once: "
    "teach the dataset the source's new shape, or have the source corrected.",
    NEWEST: "Runs may succeed while the source brings nothing new: ask its publisher, or check that its sensor runs.",
}


def _reported_checks() -> list[dg.AssetCheckKey]:
    """Every check that does not fail its run."""
    return [dg.AssetCheckKey(key, name) for key in SPECS for name in _CHECK_ADVICE]


def _page(spec: Spec) -> str:
    return f"/assets/{'/'.join(spec.key.path)}"


def some(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    more = len(names) - _NAMED
    return plain(", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else ""))


def _days(spec: Spec) -> int:
    return spec.dataset.stale_after.days if spec.dataset.stale_after else 0


def _days_ago(days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)
