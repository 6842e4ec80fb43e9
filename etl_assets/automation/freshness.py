"""What the mere passing of time breaks or hides: data that grows old, and sources that give no sign of a correction.

Whether anything was landed recently is judged by Dagster's own freshness policy on the landing assets
(`Dataset.stale_after`). The data's own newest day is judged by each run of its table (`stages.newest`), and once a day,
since no run happens when data merely grows old.
"""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from etl_assets.stages.dataset import SPECS
from etl_assets.stages.landing import ANEW
from etl_assets.stages.newest import is_dated, judge_newest


def schedules() -> Iterator[dg.ScheduleDefinition]:
    """A daily one for all newest days, and one per source that is landed anew because it signals no corrections."""
    yield dg.ScheduleDefinition(
        name="newest_data",
        job=_newest_data(),
        cron_schedule="0 6 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Checks whether the newest day of each table is recent enough.",
    )
    for spec in list(SPECS.values()):
        if spec.source is not None and spec.dataset.anew:
            yield dg.ScheduleDefinition(
                name=f"{spec.key.path[-1]}_anew",
                target=dg.AssetSelection.assets(spec.key),
                cron_schedule=spec.dataset.anew,
                execution_timezone="UTC",
                tags={ANEW: "true"},
                default_status=dg.DefaultScheduleStatus.RUNNING,
                description=f"Lands {spec.dataset.title} whole: its source gives no sign of a correction.",
            )


def _newest_data() -> dg.JobDefinition:
    @dg.op(out={})
    def look() -> Iterator[dg.AssetCheckEvaluation]:
        for spec in filter(is_dated, SPECS.values()):
            yield judge_newest(spec)

    @dg.job(name="newest_data", description="Checks how old the newest day of each table is.")
    def job() -> None:
        look()

    return job
