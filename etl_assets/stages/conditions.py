"""When Dagster should make an asset by itself: declarative automation over what is out of date."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg

from etl_assets.stages.dataset import SPECS, Spec
from etl_assets.stages.staleness import State
from etl_assets.storage.table import WHOLE


class OutOfDate(dg.AutomationCondition):
    """True of partitions whose inputs are not the ones that they were made from, once for each state of the inputs.

    Being out of date is a state, not an event: nothing is missed that happened before the first tick or between two,
    and it lasts until the partition is made. A partition that cannot be made would be asked for for ever. So the
    cursor keeps, of the partitions that are out of date (no others), the digest of the inputs that they were asked
    for with: they are asked for again when that changes.
    """

    @property
    def name(self) -> str:
        """What the UI calls the condition."""
        return "out_of_date"

    def evaluate(self, context: Any) -> dg.AutomationResult:
        """Compare the bookkeeping with the cursor; what may not be asked for now (no candidate) waits."""
        spec = SPECS[context.key]
        asked, found = json.loads(context.cursor) if context.cursor else ({}, {})
        # Only now is it known which of those found at the last tick passed the other conditions too.
        requested = _keys(spec, context.get_previous_requested_subset(context.key) or context.get_empty_subset())
        asked |= {key: found[key] for key in requested & found.keys()}
        candidates, found = _keys(spec, context.candidate_subset), {}
        if candidates:
            wanted = _wanted(spec, State(context.asset_graph_view.instance))
            asked = {key: digest for key, digest in asked.items() if key in wanted}
            found = {key: wanted[key] for key in candidates & wanted.keys() if asked.get(key) != wanted[key]}
        return dg.AutomationResult(context, _subset(spec, context, set(found)), json.dumps([asked, found]))


class AskedForNow(dg.AutomationCondition):
    """True of what this very tick asks for. `will_be_requested` is that too, but within one run only."""

    @property
    def name(self) -> str:
        """What the UI calls the condition."""
        return "asked_for_now"

    def evaluate(self, context: Any) -> dg.AutomationResult:
        """Upstreams are evaluated before what is made from them."""
        now = context.request_subsets_by_key.get(context.key) or context.get_empty_subset()
        return dg.AutomationResult(context, context.candidate_subset.compute_intersection(now))


def when_out_of_date() -> dg.AutomationCondition:
    """Make what is out of date, as soon as nothing that it is made from is being made or about to be.

    Blocking checks need no term of their own: a partition that fails one is not written, so what is made from it is
    not out of date. `eager` is no help either: its first tick is a baseline, it acts on the latest partition only, and
    an asset that reads all days of another would wait for days that no event has.
    """
    in_progress = dg.AutomationCondition.in_progress()
    coming = dg.AutomationCondition.any_deps_match(in_progress | AskedForNow()).with_label("any_deps_coming")
    # Last, so that it reads the bookkeeping after the runs: a run that ends in between has then written it.
    return (~in_progress & ~coming & OutOfDate()).with_label("when_out_of_date")


def _wanted(spec: Spec, state: State) -> dict[str, str]:
    """The partitions that are out of date, each with the digest of the inputs that it would be made from."""
    keys = state.out_of_date(spec)
    versions = {name: state.versions(source) or {} for name, source in spec.inputs.items()} if keys else {}
    return {key: spec.made_from(key, versions)[:16] for key in keys}


def _keys(spec: Spec, subset: Any) -> set[str]:
    if spec.partitions is not None:
        return set(subset.expensively_compute_partition_keys())
    return set() if subset.is_empty else {WHOLE}


def _subset(spec: Spec, context: Any, keys: set[str]) -> Any:
    if spec.partitions is not None:
        return context.asset_graph_view.get_subset_from_partition_keys(context.key, spec.partitions, keys)
    return context.candidate_subset if keys else context.get_empty_subset()
