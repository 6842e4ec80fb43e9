"""`./dev run`: ask the sources, and make what is out of date, with progress on the terminal.

It makes what the sensors and conditions would start, by the same rules (`stages.staleness`), in this process and in
the order in which data flows. Every run is an ordinary Dagster run, seen in the UI.
"""

from __future__ import annotations

import fcntl
import sys
import time
import uuid
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from etl_assets.local import ui
from etl_assets.local.dead_runs import OWNER, bury_those_of_commands, bury_those_of_uis, this_process
from etl_assets.local.in_process import execute
from etl_assets.local.report import Outcome, report
from etl_assets.settings import NotConfiguredError, explicit_settings, home, settings
from etl_assets.sources import SourceError
from etl_assets.stages.dataset import Spec
from etl_assets.stages.failures import why_step_failed
from etl_assets.stages.landing import ACCEPT_SHRUNK, ANEW, validators_of
from etl_assets.stages.newest import NEWEST
from etl_assets.stages.staleness import State, in_order, levels
from etl_assets.storage import connections
from etl_assets.storage.configured import lake, landing_store
from etl_assets.storage.dagster_storage import at_a_terminal, dagster_instance

_SOURCES_AT_ONCE = 8
#: Checks that do not fail a run, but have something to say about what has just been made.
_REPORTED_CHECKS = ("volume", "columns", "quarantine", NEWEST)


@dataclass(frozen=True)
class _Work:
    """One run: assets that do not wait for each other; or a chain, each from the one before, partition by partition."""

    specs: Sequence[Spec]
    partitions: Sequence[str] = ()
    anew: bool = False


@dataclass
class _Steps:
    """Follows the steps of a run while it is under way."""

    work: _Work
    outcomes: Mapping[str, Outcome]
    progress: Progress
    tasks: dict[str, TaskID] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    published: Counter[str] = field(default_factory=Counter)

    def heard(self, event: dg.EventLogEntry) -> None:
        """Take note of an event of the run."""
        spec = next((s for s in self.work.specs if s.key.to_python_identifier() == event.step_key), None)
        if spec is None or event.dagster_event is None:
            return
        name = spec.key.to_user_string()
        if event.dagster_event.is_step_start:
            self.started[name] = event.timestamp
            self.tasks[name] = self.progress.add_task(name, total=1, note="")
        elif event.dagster_event.is_step_materialization:
            self.published[name] += 1
        elif event.dagster_event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.dagster_event.asset_check_evaluation_data
            if found.check_name in _REPORTED_CHECKS and not found.passed:
                self.outcomes[name].warnings.append(f"{found.check_name}: {found.description}")
        elif (event.dagster_event.is_step_success or event.dagster_event.is_step_failure) and name in self.started:
            outcome, ran = self.outcomes[name], max(len(self.work.partitions), 1)
            outcome.seconds += event.timestamp - self.started[name]
            # A step that fails for some of its partitions has published the others.
            outcome.partitions += ran if event.dagster_event.is_step_success else self.published[name]
            done = f"{len(self.work.partitions)} partitions" if self.work.partitions else ""
            self.progress.update(self.tasks[name], advance=1, note=done)


@dataclass
class Driver:
    """Brings everything up to date."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    console: Console
    #: Only these datasets, and what they are made from; none means all.
    datasets: Collection[str] = ()
    #: Whether those (or all) are landed whole, whatever version their sources report.
    anew: bool = False
    #: Whether what is landed anew may be much less than before.
    accept_shrunk: bool = False
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @cached_property
    def specs(self) -> Sequence[Spec]:
        """The assets that are brought up to date, in the order in which data flows."""
        return in_order(self.datasets)

    def run(self) -> bool:
        """Make everything that is out of date; return whether everything is up to date afterwards."""
        with connections.kept():
            return self._run()

    def _run(self) -> bool:
        bury_those_of_commands(self.instance)
        waiting = self.specs
        self.outcomes = {spec.key.to_user_string(): Outcome() for spec in waiting}
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"),
                   TimeElapsedColumn())  # fmt: skip
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            for level in levels(waiting):
                for work in self._work(level, waiting):
                    self._materialize(work, progress)
                if not self.console.is_terminal:
                    self._tell(level)
                waiting = [spec for spec in waiting if spec not in level]
        if any(outcome.failures for outcome in self.outcomes.values()):
            return False
        left = self._left()
        for name in left:
            self.outcomes[name].failures.append(
                "is still out of date: a run in the UI is working on it, or its source changed meanwhile. Run again."
            )
        return not left

    def _tell(self, level: Sequence[Spec]) -> None:
        for name in (spec.key.to_user_string() for spec in level):
            if (outcome := self.outcomes[name]).partitions:
                self.console.print(f"{name}: {outcome.partitions} made in {outcome.seconds:.1f} s")

    def _work(self, level: Sequence[Spec], waiting: Sequence[Spec]) -> Iterator[_Work]:
        """Yield what must be made of a level, in as few runs as possible: starting one takes longer than most steps."""
        state = State.of(self.instance, level)
        sources = [spec for spec in level if spec.source is not None]
        with ThreadPoolExecutor(_SOURCES_AT_ONCE, thread_name_prefix="probe") as pool:
            news = list(pool.map(lambda spec: self._has_news(spec, state), sources))
        whole = [spec for spec, is_new in zip(sources, news, strict=True) if is_new]
        if landed_anew := [spec for spec in sources if self._is_landed_anew(spec)]:
            yield _Work(landed_anew, anew=True)
        alike: dict[tuple[str, Any, frozenset[str]], list[Spec]] = {}
        for spec in level:
            keys = state.out_of_date(spec)
            if keys and spec.partitions is not None:
                alike.setdefault((spec.dataset.name, spec.partitions, frozenset(keys)), []).append(spec)
            elif keys:
                whole.append(spec)
        for (*_, partitions), specs in alike.items():
            chain = {made.key: made for spec in specs for made in _chain(spec, partitions, waiting, state)}
            yield from (_Work(list(chain.values()), batch) for batch in _batches(specs[0], partitions))
        if whole:
            yield _Work(whole)

    def _has_news(self, spec: Spec, state: State) -> bool:
        """Whether a source has to be landed: it has news, or the last landing did not finish.

        A source that cannot be asked is noted as failed.
        """
        assert spec.source is not None
        if self._is_landed_anew(spec):
            return False  # it is landed anyway, in a run of its own
        known = landing_store(spec.key.path[-1]).current()
        try:
            new = spec.source.probe(validators_of(known))
        except (SourceError, NotConfiguredError) as error:
            self.outcomes[spec.key.to_user_string()].failures.append(str(error))
            return False
        return new is not None or known is None or not state.is_finished(spec)

    def _is_landed_anew(self, spec: Spec) -> bool:
        """Whether an asset is landed anew: one of a named dataset (or of any), not what that is made from."""
        return self.anew and (not self.datasets or spec.dataset.name in self.datasets)

    def _materialize(self, work: _Work, progress: Progress) -> None:
        tags = {OWNER: this_process()} | ({ANEW: "true"} if work.anew else {})
        tags |= {ACCEPT_SHRUNK: "true"} if work.anew and self.accept_shrunk else {}
        run_id, steps = str(uuid.uuid4()), _Steps(work, self.outcomes, progress)
        self.instance.add_event_listener(run_id, steps.heard)
        assets = [spec.key for spec in work.specs]
        result = execute(self.definitions, self.instance, assets, tags, partitions=work.partitions, run_id=run_id)
        reasons = _reasons(result)
        if any(_was_interrupted(event) for event in result.all_events):
            raise KeyboardInterrupt  # which Dagster has turned into a failed step
        for spec in work.specs:
            name = spec.key.to_user_string()
            self.outcomes[name].failures.extend(reasons.get(spec.key.to_python_identifier(), reasons.get("", ())))

    def _left(self) -> list[str]:
        state = State.of(self.instance, self.specs)
        return [spec.key.to_user_string() for spec in self.specs if state.out_of_date(spec)]


def _batches(spec: Spec, keys: Collection[str]) -> Iterator[Sequence[str]]:
    """Yield the partitions of each run, in order, as many at a time as the dataset says."""
    wanted = sorted(keys)
    for start in range(0, len(wanted), spec.dataset.batch):
        yield wanted[start : start + spec.dataset.batch]


def _chain(spec: Spec, keys: Collection[str], waiting: Collection[Spec], state: State) -> Sequence[Spec]:
    """An asset and those of its dataset made from it partition by partition, and from nothing else that waits.

    They go in one run. An asset that lacks other partitions as well is made later, all at once: the ids that a table
    assigns must follow the order of its partitions, even after a run that was cut off.
    """
    chain, missing = [spec], {other.key for other in waiting} - {spec.key}
    for other in waiting:
        sources = {source.key: source for source in other.inputs.values()}
        follows = any(sources[done.key].by_partition for done in chain if done.key in sources)
        follows = follows and other.dataset is spec.dataset and not other.whole and not missing & sources.keys()
        if follows and state.out_of_date(other) <= set(keys):
            chain.append(other)
            missing.remove(other.key)
    return chain


def run(datasets: Collection[str] = (), *, anew: bool = False, accept_shrunk: bool = False) -> int:
    """Bring everything up to date and say what there is; 0 only if everything is up to date.

    Raises RuntimeError if Dagster's own storage goes away.
    """
    from etl_assets.definitions import defs

    started = time.monotonic()
    # With logs for machines, stdout is theirs.
    console = Console(
        stderr=settings().log_format == "json", soft_wrap=True, width=None if sys.stdout.isatty() else 120
    )
    with _one_at_a_time(console), at_a_terminal(), dagster_instance() as instance:
        if explicit_settings().dagster_storage_url is None:
            bury_those_of_uis(instance)
        driver = Driver(defs, instance, console, datasets, anew, accept_shrunk)
        done = driver.run()
        made = sum(outcome.partitions for outcome in driver.outcomes.values())
        report(console, instance, driver.specs, driver.outcomes)
    seconds = time.monotonic() - started
    if not made and done:
        console.print(f"The sources have nothing new, everything is up to date ({seconds:.1f} s).")
    elif done:
        console.print(f"Everything is up to date ({seconds:.1f} s).")
    else:
        console.print("[red]Not everything is up to date[/red]: see above; `./dev ui` shows the failed runs in full.")
    found = ui.running()
    where = f"{found.url} (running)" if found else f"./dev ui ({settings().dagster_ui_url})"
    console.print(f"lake: {lake().url}\nwarehouse: ./dev sql\nUI: {where}", highlight=False)
    return 0 if done else 1


@contextmanager
def _one_at_a_time(console: Console) -> Generator[None]:
    """Let a second `./dev run` wait for the first: it would do the same work, and find it done."""
    with (home() / "run.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("Another ./dev run is in progress; waiting for it …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _reasons(result: dg.ExecuteInProcessResult) -> dict[str, list[str]]:
    """Why steps failed, by step; if the run failed without a failed step, the reason is under an empty name."""
    reasons: dict[str, list[str]] = {}
    for event in result.all_events:
        if event.is_step_failure:
            reasons.setdefault(event.step_key or "", []).append(why_step_failed(event))
        elif event.event_type == dg.DagsterEventType.RUN_FAILURE and not reasons:
            reasons[""] = [event.message or "the run failed"]
    return reasons


def _was_interrupted(event: dg.DagsterEvent) -> bool:
    error = event.step_failure_data.error if event.is_step_failure else None
    return error is not None and error.cls_name == dg.DagsterExecutionInterruptedError.__name__
