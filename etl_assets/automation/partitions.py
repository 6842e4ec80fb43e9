"""The calendars that datasets are partitioned by."""

from __future__ import annotations

import dagster as dg


def daily(first_day: str, *, ahead: int = 0) -> dg.DailyPartitionsDefinition:
    """Days (UTC) from `first_day` to today and `ahead` days beyond it, for sources that announce what is to come."""
    return dg.DailyPartitionsDefinition(start_date=first_day, end_offset=ahead + 1)
