"""How old a table's newest day is: its runs may be well while its source stands still."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from etl_assets.settings import settings
from etl_assets.stages.dataset import Spec
from etl_assets.storage.configured import lake, warehouse

#: The check that a refined table's newest day is new enough (`Dataset.data_stale_after`).
NEWEST = "newest"


def is_dated(spec: Spec) -> bool:
    """Whether an asset is a partitioned refined table whose dataset declares how old its data may be."""
    cut = spec.partitions is not None and spec.table is not None and spec.table.stage == "refined"
    return cut and spec.dataset.data_stale_after is not None


def newest_check(spec: Spec) -> dg.AssetCheckSpec:
    """The check as the asset declares it."""
    allowed = spec.dataset.data_stale_after
    assert allowed is not None
    return dg.AssetCheckSpec(
        NEWEST, asset=spec.key, description=f"The newest day is not older than {allowed.days} days"
    )


def judge_newest(spec: Spec) -> dg.AssetCheckEvaluation:
    """The check's outcome today."""
    allowed = spec.dataset.data_stale_after
    assert allowed is not None
    today = datetime.now(UTC).date()
    found = newest_day(spec, today)
    age = today - found if found else timedelta(0)
    # A recording grows old by itself, and says nothing about its publisher.
    judged = settings().sources == "live"
    return dg.AssetCheckEvaluation(
        asset_key=spec.key,
        check_name=NEWEST,
        passed=not judged or (found is not None and age <= allowed),
        severity=dg.AssetCheckSeverity.WARN,
        description=(f"The newest day is {found}, {age.days} days ago" if found else "There is no day yet")
        + ("" if judged else "; not judged, because the source is a recording"),
        metadata={"newest_day": str(found), "age_days": age.days, "allowed_days": allowed.days},
    )


def newest_day(spec: Spec, today: date) -> date | None:
    """The newest day that a table has a row of, today at the latest; None if there is none.

    What a source announces for days to come does not make it new. A table of years is as new as its newest year's end.
    """
    table = spec.own_table
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
