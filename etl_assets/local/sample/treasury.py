"""The sample of the US Treasury's advances under Title XII: two files a month apart, as its API answers.

Here: the rows with their gaps in time, names that change, second lines and noisy rates, and the old rows that the
later file corrects (`CORRECTED_ADVANCES`). Not here: how the API pages and filters them (local/apis).
"""

from __future__ import annotations

import random
from datetime import date, timedelta

from etl_assets.local.sample.files import Row, gzipped, json_bytes

#: The days in the first publication of title_xii that have a row which differs in the second.
CORRECTED_ADVANCES = frozenset({"2020-04-15", "2020-10-05"})

_ADVANCE_FIELDS = {
    # Label, type and format of each.
    "record_date": ("Record Date", "DATE", "YYYY-MM-DD"),
    "state_nm": ("State Name", "STRING", "String"),
    "interest_rate_pct": ("Interest Rate Percent", "PERCENTAGE", "10.2%"),
    "outstanding_advance_bal": ("Outstanding Advance Balance", "CURRENCY", "$10.20"),
    "advance_auth_month_amt": ("Advance Authorization Current Month", "CURRENCY", "$10.20"),
    "gross_advance_draws_month_amt": ("Gross Advance Draws Current Month", "CURRENCY", "$10.20"),
    "interest_accrued_fytd_amt": ("Interest Accrued Fiscal Year to Date", "CURRENCY", "$10.20"),
    "interest_paid_amt": ("Interest Paid Amount", "CURRENCY", "$10.20"),
    "src_line_nbr": ("Source Line Number", "INTEGER", "10"),
    "record_fiscal_year": ("Fiscal Year", "YEAR", "YYYY"),
    "record_fiscal_quarter": ("Fiscal Quarter Number", "QUARTER", "Q"),
    "record_calendar_year": ("Calendar Year", "YEAR", "YYYY"),
    "record_calendar_quarter": ("Calendar Quarter Number", "QUARTER", "Q"),
    "record_calendar_month": ("Calendar Month Number", "MONTH", "MM"),
    "record_calendar_day": ("Calendar Day Number", "DAY", "DD"),
}
_BORROWERS = {
    # State: the first day it is listed.
    **dict.fromkeys(("California", "Connecticut", "Indiana", "New York", "Ohio", "Virgin Islands"), "2020-03-02"),
    **dict.fromkeys(("Illinois", "Massachusetts", "Texas"), "2020-03-24"),
    **dict.fromkeys(("Hawaii", "Louisiana", "Virginia"), "2020-05-04"),
}
_GAPS = (("2020-06-05", "2020-06-22"), ("2020-12-12", "2021-01-18"))


def advance_files() -> dict[str, bytes]:
    """The file of 2021-08-31, and the one a month later, with one more month and two old rows corrected."""
    rng = random.Random(20210831)  # noqa: S311 - repeatable is what is wanted
    first_day, last_day = date(2020, 3, 2), date(2021, 9, 30)
    days = [first_day + timedelta(days=number) for number in range((last_day - first_day).days + 1)]
    # Every working day at first, then Mondays and the ends of months; with gaps in which nothing came.
    days = [
        day
        for day in days
        if day.weekday() < 5
        and (str(day) < "2020-05" or day.weekday() == 0 or (day + timedelta(days=1)).day == 1)
        and not any(start <= str(day) <= end for start, end in _GAPS)
    ]
    rows = _advances(rng, days)
    earlier = [dict(row) for row in rows if row["record_date"] < "2021-09"]
    for row in rows:
        if row["record_date"] in CORRECTED_ADVANCES and row["state_nm"] == "Ohio":
            row["outstanding_advance_bal"] = "123456789.01"
    return {
        "treasury/2021-08-31/title_xii.json.gz": _advance_file(earlier),
        "treasury/2021-09-30/title_xii.json.gz": _advance_file(rows),
    }


def _advance_file(rows: list[Row]) -> bytes:
    meta = {
        name: {field: of[number] for field, of in _ADVANCE_FIELDS.items()}
        for number, name in enumerate(("labels", "dataTypes", "dataFormats"))
    }
    return gzipped(json_bytes({"data": rows, **meta}))


def _advances(rng: random.Random, days: list[date]) -> list[Row]:
    rows: list[Row] = []
    cents = dict.fromkeys(_BORROWERS, 0)
    interest = dict.fromkeys(_BORROWERS, 0)
    for day in days:
        listed = [state for state, since in _BORROWERS.items() if since <= str(day)]
        if str(day) in ("2020-04-03", "2020-04-06"):
            listed.append("Indiana")  # a second line, of other amounts
        for line, state in enumerate(sorted(listed), start=1):
            is_second = bool(rows) and line > 1 and rows[-1]["state_nm"] == state
            draw = rng.choice((0, 0, rng.randrange(10**6, 10**10), rng.randrange(10**4, 10**7) * 100))
            cents[state] += 0 if is_second else draw
            interest[state] += rng.randrange(10**5) if day.year == 2021 and day.month >= 7 else 0
            rows.append(
                {
                    "record_date": str(day),
                    "state_nm": _name_as_given(state, day),
                    # The same rate, with the noise of a binary fraction or without.
                    "interest_rate_pct": rng.choice(("1.59090000", "1.59089995")) if day.year == 2020 else "2.27770000",
                    "outstanding_advance_bal": _dollars(0 if is_second else cents[state]),
                    "advance_auth_month_amt": "0" if is_second else f"{len(state)}00000000",
                    "gross_advance_draws_month_amt": _dollars(0 if is_second else draw),
                    "interest_accrued_fytd_amt": _dollars(interest[state]),
                    "interest_paid_amt": "null" if rng.random() < 0.02 else "0",
                    "src_line_nbr": str(line),
                    "record_fiscal_year": str(day.year + (day.month > 9)),
                    "record_fiscal_quarter": str((day.month + 2) // 3 % 4 + 1),
                    "record_calendar_year": str(day.year),
                    "record_calendar_quarter": str((day.month + 2) // 3),
                    "record_calendar_month": f"{day.month:02d}",
                    "record_calendar_day": f"{day.day:02d}",
                }
            )
    return rows


def _name_as_given(state: str, day: date) -> str:
    if state == "Louisiana" and "2020-07" <= str(day) < "2020-09":
        return "Louisana"
    if state == "New York" and "2020-10" <= str(day) < "2021-02":
        return "New York**" if day.year == 2020 else "New York*"
    return state


def _dollars(cents: int) -> str:
    return f"{cents / 100:.2f}".rstrip("0").rstrip(".")
