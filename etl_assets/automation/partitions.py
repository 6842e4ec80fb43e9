"""The calendars that datasets are partitioned by."""

from __future__ import annotations

import dagster as dg


def monthly(first_day: str) -> dg.MonthlyPartitionsDefinition:
    """Months (UTC) from `first_day` to the current one."""
    return dg.MonthlyPartitionsDefinition(start_date=first_day, end_offset=1)


def yearly(first_day: str) -> dg.TimeWindowPartitionsDefinition:
    """Years (UTC) from `first_day` to the current one; a key is a year's first day."""
    return dg.TimeWindowPartitionsDefinition(start=first_day, cron_schedule="0 0 1 1 *", fmt="%Y-%m-%d", end_offset=1)


def daily(first_day: str, *, ahead: int = 0) -> dg.DailyPartitionsDefinition:
    """Days (UTC) from `first_day` to today and `ahead` days beyond it, for sources that announce what is to come."""
    return dg.DailyPartitionsDefinition(start_date=first_day, end_offset=ahead + 1)
