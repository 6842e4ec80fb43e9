"""What time alone makes wrong or unseen: data that has grown old, and sources that give no sign of a correction.

That nothing was landed for too long is Dagster's own freshness policy, on the landing assets (`Dataset.stale_after`).
Here is the other half, the data's own newest day (`Dataset.data_stale_after`): runs may be well, and the source stand
still. It is looked at once a day, since no run happens when data merely grows old.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from etl_assets.settings import settings
from etl_assets.stages.dataset import SPECS, Spec
from etl_assets.stages.landing import ANEW
from etl_assets.storage.configured import lake, warehouse

#: The check of a refined table that its newest day is new enough.
NEWEST = "newest"


def newest_checks() -> Iterator[dg.AssetChecksDefinition]:
    """The check of the data's own newest day, for the refined table of each dataset that declares how old it may be."""
    for spec in _dated():
        yield _newest_check(spec)


def schedules() -> Iterator[dg.ScheduleDefinition]:
    """One a day that looks at all newest days, and one for each source that is landed anew without giving a sign."""
    checks = [dg.AssetCheckKey(spec.key, NEWEST) for spec in _dated()]
    yield dg.ScheduleDefinition(
        name="newest_data",
        target=dg.AssetSelection.checks(*checks),
        cron_schedule="0 6 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Whether the newest day of each table is new enough.",
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


def newest_day(spec: Spec, today: date) -> date | None:
    """The newest day that a table has a row of, today at the latest; None for an empty table.

    What a source announces for days to come does not make it new. A table of years is as new as the year's last day.
    """
    table = spec.table
    assert table is not None
    assert table.partitioning is not None
    keys = [key for key, facts in warehouse().facts(table.full_name).items() if facts.rows and key]
    past = [key for key in keys if date.fromisoformat(key) <= today]
    if not past:
        return None
    newest = max(past)
    if table.partitioning.every == "year_number":
        return min(today, date.fromisoformat(newest).replace(month=12, day=31))
    days = lake().read(table, [newest], [table.partitioning.column]).frame.to_series()
    return max((day for day in days.unique() if day <= today), default=date.fromisoformat(newest))


def _dated() -> list[Spec]:
    return [
        spec
        for spec in SPECS.values()
        if spec.dataset.data_stale_after and spec.partitions and spec.table and spec.table.stage == "refined"
    ]


def _newest_check(spec: Spec) -> dg.AssetChecksDefinition:
    allowed = spec.dataset.data_stale_after
    assert allowed is not None

    @dg.asset_check(
        asset=spec.key,
        name=NEWEST,
        description=f"The newest day is not older than {allowed.days} days",
    )
    def newest() -> dg.AssetCheckResult:
        today = datetime.now(UTC).date()
        found = newest_day(spec, today)
        age = today - found if found else timedelta(0)
        # A recording grows old by itself, and says nothing of its publisher.
        judged = settings().sources == "live"
        return dg.AssetCheckResult(
            passed=not judged or (found is not None and age <= allowed),
            severity=dg.AssetCheckSeverity.WARN,
            description=f"The newest day is {found or 'none'}, {age.days} days ago"
            + ("" if judged else "; not judged, for the source is a recording"),
            metadata={"newest_day": str(found), "age_days": age.days, "allowed_days": allowed.days},
        )

    return newest
