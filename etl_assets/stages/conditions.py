"""When Dagster should make an asset by itself: declarative automation over what is out of date."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import dagster as dg

from etl_assets.stages.dataset import SPECS, Spec
from etl_assets.stages.staleness import State
from etl_assets.storage.table import WHOLE

#: How long a partition that could not be made waits to be asked for again; each time twice as long, up to a day.
_FIRST_WAIT, _LONGEST_WAIT = timedelta(minutes=10), timedelta(days=1)
#: How often the lake is listed to find lost objects: S3 charges for each listing, and ticks are frequent.
_LISTED_EVERY = timedelta(minutes=10)


class OutOfDate(dg.AutomationCondition):
    """True for partitions whose inputs are not those that they were made from, once for each state of the inputs.

    Being out of date is a state, not an event: nothing that happened before the first tick or between two is missed,
    and it lasts until the partition is made. A partition that cannot be made would be asked for with every tick. So,
    for the partitions that are out of date or being made (no others), the cursor keeps when they were asked for, and
    the digest of their inputs then. They are asked for again when the digest changes, otherwise after growing waits,
    since what failed may have been a database or a disk that is back by then.
    """

    @property
    def name(self) -> str:
        """What the UI calls the condition."""
        return "out_of_date"

    def evaluate(self, context: Any) -> dg.AutomationResult:
        """Ask for the candidates that are out of date and due."""
        spec, now = SPECS[context.key], context.evaluation_time.timestamp()
        cursor = _Cursor.read(context.cursor)
        # Which of those due at the last tick also passed the other conditions is known only now.
        requested = _keys(spec, context.get_previous_requested_subset(context.key) or context.get_empty_subset())
        asked = cursor.asked | {key: cursor.due[key] for key in requested & cursor.due.keys()}
        candidates, due, listed = _keys(spec, context.candidate_subset), dict[str, _Asked](), cursor.listed
        if candidates:
            is_time = now - listed >= _LISTED_EVERY.total_seconds()
            wanted = _wanted(spec, State(context.asset_graph_view.instance), with_lost=is_time)
            if is_time:  # only a listing tells that a partition has been made, and that the lake has not lost it
                listed = now
                made = candidates - wanted.keys()  # one that is under way is no candidate: it may still fail
                asked = {key: then for key, then in asked.items() if key not in made}
            turns = {key: _Asked.after(asked.get(key), wanted[key], now) for key in candidates & wanted.keys()}
            due = {key: turn for key, turn in turns.items() if turn}
        return dg.AutomationResult(context, _subset(spec, context, set(due)), _Cursor(asked, due, listed).text())


class _Asked(NamedTuple):
    """A request for a partition: the digest of its inputs, its time, and how long to wait after it; in seconds."""

    digest: str
    at: float
    wait: float

    @classmethod
    def after(cls, before: _Asked | None, digest: str, now: float) -> _Asked | None:
        """The request to make now; None if it is not time yet."""
        if before is None or before.digest != digest:
            return cls(digest, now, _FIRST_WAIT.total_seconds())
        if 0 <= now - before.at < before.wait:  # a time ahead is of a clock that was set back since
            return None
        return cls(digest, now, min(2 * before.wait, _LONGEST_WAIT.total_seconds()))


@dataclass(frozen=True)
class _Cursor:
    """What a tick leaves to the next: earlier requests, those that were due, and the time of the last listing."""

    asked: dict[str, _Asked] = field(default_factory=dict)
    due: dict[str, _Asked] = field(default_factory=dict)
    listed: float = 0.0

    @classmethod
    def read(cls, text: str | None) -> _Cursor:
        """The cursor that a tick has left; an empty one if there is none or its format is another."""
        kept: Any = json.loads(text or "null")
        try:
            asked = {key: _Asked(*of) for key, of in kept["asked"].items()}
            due = {key: _Asked(*of) for key, of in kept["due"].items()}
            return cls(asked, due, float(kept["listed"]))
        except (AttributeError, KeyError, TypeError, ValueError):
            return cls()

    def text(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps({"asked": self.asked, "due": self.due, "listed": self.listed})


class AskedForNow(dg.AutomationCondition):
    """True for what this very tick asks for. `will_be_requested` says that too, but only within one run."""

    @property
    def name(self) -> str:
        """What the UI calls the condition."""
        return "asked_for_now"

    def evaluate(self, context: Any) -> dg.AutomationResult:
        """Upstreams are evaluated before what is made from them."""
        now = context.request_subsets_by_key.get(context.key) or context.get_empty_subset()
        return dg.AutomationResult(context, context.candidate_subset.compute_intersection(now))


def when_out_of_date() -> dg.AutomationCondition:
    """Make what is out of date, as soon as none of its upstreams is being made or about to be.

    Blocking checks need no term of their own: a partition that fails one is not written, so what is made from it is
    not out of date. `eager` is no help either: its first tick is a baseline, it acts on the latest partition only, and
    an asset that reads all days of another would wait for days without an event.
    """
    in_progress = dg.AutomationCondition.in_progress()
    coming = dg.AutomationCondition.any_deps_match(in_progress | AskedForNow()).with_label("any_deps_coming")
    # Last, so that it reads the bookkeeping after the runs: a run that ends in between has then written it.
    return (~in_progress & ~coming & OutOfDate()).with_label("when_out_of_date")


def _wanted(spec: Spec, state: State, *, with_lost: bool) -> dict[str, str]:
    """The partitions that are out of date, each with the digest of the inputs that it would be made from."""
    keys = state.out_of_date(spec, with_lost=with_lost)
    versions = {name: state.versions(source) or {} for name, source in spec.inputs.items()} if keys else {}
    return {key: digest[:16] for key, digest in spec.made_from(keys, versions).items()}


def _keys(spec: Spec, subset: Any) -> set[str]:
    if spec.partitions is not None:
        return set(subset.expensively_compute_partition_keys())
    return set() if subset.is_empty else {WHOLE}


def _subset(spec: Spec, context: Any, keys: set[str]) -> Any:
    if spec.partitions is not None:
        return context.asset_graph_view.get_subset_from_partition_keys(context.key, spec.partitions, keys)
    return context.candidate_subset if keys else context.get_empty_subset()
