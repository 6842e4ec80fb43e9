"""When Dagster should make an asset by itself: declarative automation over what is out of date."""

from __future__ import annotations

from typing import Any

import dagster as dg

from etl_assets.stages.dataset import SPECS
from etl_assets.stages.staleness import State
from etl_assets.storage.table import WHOLE


class OutOfDate(dg.AutomationCondition):
    """True of the partitions whose inputs are not the ones that they were made from (see `staleness`)."""

    @property
    def name(self) -> str:
        """What the UI calls the condition."""
        return "out_of_date"

    def evaluate(self, context: Any) -> dg.AutomationResult:
        """Ask the bookkeeping, for the candidates only."""
        if context.candidate_subset.is_empty:
            return dg.AutomationResult(context, true_subset=context.get_empty_subset())
        spec = SPECS[context.key]
        keys = State(context.asset_graph_view.instance).out_of_date(spec)
        if spec.partitions is None:
            subset = context.candidate_subset if WHOLE in keys else context.get_empty_subset()
            return dg.AutomationResult(context, true_subset=subset)
        view = context.asset_graph_view
        stale = view.get_asset_subset_from_partition_keys(context.key, spec.partitions, keys)
        return dg.AutomationResult(context, true_subset=context.candidate_subset.compute_intersection(stale))


def when_out_of_date() -> dg.AutomationCondition:
    """Make a partition when an upstream was published anew and its content is another than before.

    `eager` is what is triggered by events; its latest-window term is taken out, since corrections reach back years.
    `out_of_date` then leaves only what differs: a whole-file source updates one upstream of all days at once.
    """
    eager = dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())
    return (eager & OutOfDate() & dg.AutomationCondition.all_deps_blocking_checks_passed()).with_label("out of date")
