"""US Treasury's advances end to end: exact to the cent, no row lost or doubled, and what is not right told."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from etl_assets.quality.states import CODES
from etl_assets_tests.faults import Fault
from etl_assets_tests.house import House

PATH = "/treasury/services/api/fiscal_service/v2/accounting/od/title_xii"
AMOUNTS = {
    "outstanding_advance_balance": "outstanding_advance_bal",
    "advance_authorized_month": "advance_auth_month_amt",
    "gross_advance_draws_month": "gross_advance_draws_month_amt",
    "interest_accrued_fiscal_year": "interest_accrued_fytd_amt",
    "interest_paid": "interest_paid_amt",
}
TABLES = ("refined.state_unemployment_advances", "presentation.state_advances_monthly")
Row = dict[str, str]


def recording(data: Path, day: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(gzip.decompress((data / "treasury" / day / "title_xii.json.gz").read_bytes()))
    return document


def money(text: str) -> Decimal | None:
    return None if text == "null" else Decimal(text)


def total(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """The sum of what is known; nothing where nothing is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if known else None


def state_of(row: Row) -> str:
    """The state's name, mended by other means than the project's."""
    name = row["state_nm"].replace("*", "").strip()
    return "Louisiana" if name == "Louisana" else name


def check_rows(house: House, rows: list[Row]) -> None:
    """Every row, cell by cell, and the sums of each month."""
    found = house.sql(
        "SELECT record_date, line, state_code, state, state_given, footnote, interest_rate, fiscal_year,"
        f" fiscal_quarter, calendar_year, calendar_quarter, calendar_month, calendar_day, {', '.join(AMOUNTS)}"
        " FROM refined.state_unemployment_advances"
    )
    assert len(found) == len(rows)
    assert {row[:2]: row[2:] for row in found} == {
        (date.fromisoformat(row["record_date"]), int(row["src_line_nbr"])): (
            *(CODES[state_of(row)], state_of(row), row["state_nm"], "*" * row["state_nm"].count("*") or None),
            money(row["interest_rate_pct"]),
            *(int(row[f"record_{n}"]) for n in ("fiscal_year", "fiscal_quarter", "calendar_year", "calendar_quarter")),
            *(int(row[f"record_calendar_{n}"]) for n in ("month", "day")),
            *(money(row[given]) for given in AMOUNTS.values()),
        )
        for row in rows
    }
    for column, given in AMOUNTS.items():
        wanted: dict[str, Decimal] = defaultdict(Decimal)
        for row in rows:
            wanted[row["record_date"][:7]] += money(row[given]) or 0
        sums = house.sql(
            f"SELECT to_char(record_date, 'YYYY-MM'), coalesce(sum({column}), 0) FROM"
            " refined.state_unemployment_advances GROUP BY 1"
        )
        assert dict(sums) == wanted, column


def check_monthly(house: House, rows: list[Row]) -> None:
    """The state of each month's last day, computed again with plain Python."""
    by: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by[row["record_date"][:7], state_of(row)].append(row)
    wanted: dict[tuple[date, str], tuple[object, ...]] = {}
    month_ends: dict[str, str] = {}
    for row in rows:
        month_ends[row["record_date"][:7]] = max(row["record_date"], month_ends.get(row["record_date"][:7], ""))
    for (month, state), group in by.items():
        last = max(row["record_date"] for row in group)
        ends = [row for row in group if row["record_date"] == last]
        balance = total(money(row[AMOUNTS["outstanding_advance_balance"]]) for row in ends)
        wanted[date.fromisoformat(f"{month}-01"), CODES[state]] = (
            *(state, date.fromisoformat(last)),
            balance if last == month_ends[month] else None,  # else the state has repaid, and is listed no more
            total(money(row["gross_advance_draws_month_amt"]) for row in ends),
            total(money(row["interest_accrued_fytd_amt"]) for row in ends),
            total(money(row["interest_paid_amt"]) for row in group),
        )
    found = house.sql(
        "SELECT month, state_code, state, last_record_date, month_end_balance, draws, interest_accrued_fiscal_year,"
        " interest_paid FROM presentation.state_advances_monthly"
    )
    assert {row[:2]: row[2:] for row in found} == wanted


@pytest.fixture
def treasury(house: House) -> House:
    """A house on the first publication, that has run."""
    house.publish("2021-08-31")
    house.has_run("treasury_title_xii")
    return house


def publish(house: House, day: str, rows: list[Row]) -> None:
    """Let the source show these rows from now on."""
    document = recording(house.data, "2021-08-31") | {"data": rows}
    house.write("treasury", day, "title_xii.json", json.dumps(document).encode())
    house.publish(day)


def test_every_row_is_there_exact_to_the_cent(treasury: House) -> None:
    rows = recording(treasury.data, "2021-08-31")["data"]
    check_rows(treasury, rows)
    check_monthly(treasury, rows)
    lines = treasury.sql(
        "SELECT line FROM refined.state_unemployment_advances WHERE record_date = '2020-04-03' AND state_code = 'IN'"
    )
    assert len(lines) == 2
    types = treasury.sql(
        "SELECT DISTINCT data_type FROM information_schema.columns WHERE table_schema = 'refined' AND"
        " table_name = 'state_unemployment_advances' AND column_name = ANY(%s)",
        list(AMOUNTS),
    )
    assert types == [("numeric",)]


def test_a_month_later(treasury: House) -> None:
    """The new month is there, and what was corrected within reach; a settled month stays as it was landed."""
    treasury.publish("2021-09-30")
    assert treasury.run(), treasury.failures()
    rows = recording(treasury.data, "2021-09-30")["data"]
    earlier = recording(treasury.data, "2021-08-31")["data"]
    check_rows(
        treasury,
        [*(r for r in earlier if r["record_date"] < "2020-07"), *(r for r in rows if r["record_date"] >= "2020-07")],
    )
    changed = [new for old, new in zip(earlier, rows, strict=False) if old != new and new["record_date"] >= "2020-07"]
    months = {row["record_date"][:7] for row in changed} | {"2021-09"}
    assert treasury.made()["refined/state_unemployment_advances"] == len(months)
    assert treasury.run()
    assert not treasury.made()


def test_corrections_that_show_in_neither_the_newest_date_nor_the_number_of_rows(treasury: House) -> None:
    """Those within the look-back are seen the next day, older ones on demand; nothing but their months is made."""
    rows = recording(treasury.data, "2021-08-31")["data"]
    recent = next(n for n, row in enumerate(rows) if row["record_date"] >= "2021-06-10")
    old = next(n for n, row in enumerate(rows) if row["record_date"] >= "2020-04-10")

    def corrected(*numbers: int) -> list[Row]:
        return [row | {"interest_paid_amt": "77.05"} if n in numbers else row for n, row in enumerate(rows)]

    publish(treasury, "2021-09-01", corrected(old, recent))
    assert treasury.run(), treasury.failures()
    assert treasury.made() == {}
    treasury.age("treasury_title_xii", 1)
    before = treasury.faults.count(PATH, query={"page[size]": "1000"})
    assert treasury.run(), treasury.failures()
    assert treasury.made()["refined/state_unemployment_advances"] == 1
    assert treasury.faults.count(PATH, query={"page[size]": "1000"}) == before + 14  # July 2020 to August 2021
    check_rows(treasury, corrected(recent))

    treasury.faults.add(PATH, Fault.html(), query={"filter": "record_date:gte:2020-05-01,record_date:lt:2020-06-01"})
    assert not treasury.run(anew=True)
    assert "2020-05, page 1: " in treasury.failures()
    check_rows(treasury, corrected(recent))
    assert treasury.run(anew=True), treasury.failures()
    assert treasury.made()["refined/state_unemployment_advances"] == 1
    check_rows(treasury, corrected(old, recent))
    objects = {name: treasury.lake.get(name) for name in treasury.objects() if not name.startswith("landing/")}
    assert treasury.run(anew=True), treasury.failures()
    assert treasury.made() == {"landing/treasury_title_xii": 1}
    assert {name: treasury.lake.get(name) for name in objects} == objects


def test_rows_that_are_not_right(treasury: House) -> None:
    rows = [dict(row) for row in recording(treasury.data, "2021-08-31")["data"]]
    bad: dict[int, tuple[Row, str]] = {
        300: ({"outstanding_advance_bal": "1,234.50"}, "readable: outstanding_advance_balance is 1,234.50"),
        310: ({"outstanding_advance_bal": "1.005"}, "readable: outstanding_advance_balance is 1.005"),
        320: ({"interest_rate_pct": "5/10"}, "readable: interest_rate is 5/10"),
        330: ({"interest_paid_amt": "Data not available"}, "readable: interest_paid is Data not available"),
        340: ({"state_nm": "null"}, "not_nullable: state_code is missing"),
        350: ({"state_nm": "Atlantis"}, "not_nullable: state_code is missing"),
        360: ({"src_line_nbr": "null"}, "not_nullable: line is missing"),
    }
    for n, (change, _) in bad.items():
        rows[-n] |= change
    publish(treasury, "2021-09-01", [*rows, rows[400]])  # and one comes twice
    assert treasury.run(), treasury.failures()
    reasons = [reason for (reason,) in treasury.sql("SELECT reason FROM quarantine.state_unemployment_advances")]
    for _, why in bad.values():
        assert any(why in reason for reason in reasons), (why, reasons)
    assert len(reasons) == len(bad)
    check_rows(treasury, [row for n, row in enumerate(rows) if len(rows) - n not in bad])
    publish(treasury, "2021-09-02", recording(treasury.data, "2021-08-31")["data"])
    assert treasury.run(), treasury.failures()
    assert treasury.value("SELECT count(*) FROM quarantine.state_unemployment_advances") == 0


def test_what_is_in_quarantine_is_not_taken_for_repaid_nor_a_part_for_the_whole(treasury: House) -> None:
    rows = [dict(row) for row in recording(treasury.data, "2021-08-31")["data"]]
    last = max(row["record_date"] for row in rows)
    end = [row for row in rows if row["record_date"] == last]
    end[0]["outstanding_advance_bal"] = "9,380.00"
    state, month = state_of(end[0]), f"{last[:7]}-01"
    publish(treasury, "2021-09-01", [*rows, rows[400]])  # another number of rows tells that there is something new
    assert treasury.run(), treasury.failures()
    query = (
        "SELECT state, last_record_date, month_end_balance, draws, interest_paid, is_complete"
        " FROM presentation.state_advances_monthly WHERE month = %s"
    )
    found = {row[0]: row[1:] for row in treasury.sql(query, month)}
    assert found.pop(state) == (date.fromisoformat(last), None, None, None, False)
    assert {row[-1] for row in found.values()} == {True}
    assert treasury.value(
        "SELECT bool_and(is_complete) FROM presentation.state_advances_monthly WHERE month < %s", month
    )
    # What is of no partition is of no month.
    beyond = [rows[400] | {"record_date": day} for day in ("1999-12-31",)]
    publish(treasury, "2021-09-01", [*rows, *beyond])
    assert treasury.run(), treasury.failures()
    months = "SELECT min(month)::text, max(month)::text FROM presentation.state_advances_monthly"
    assert treasury.sql(months) == [(f"{min(row['record_date'] for row in rows)[:7]}-01", month)]

    # Nor what nobody can say of whom, or of which day, it is.
    for wrong in ({"state_nm": "Atlantis"}, {"record_date": f"{last[:7]}-1x"}):
        changed = [row if row is not end[0] else row | {"outstanding_advance_bal": "1"} | wrong for row in rows]
        publish(treasury, f"2021-09-0{2 + ('state_nm' not in wrong)}", [*changed, *[rows[400]] * (2 + len(wrong))])
        assert treasury.run(anew=True), treasury.failures()
        found = {row[0]: row[1:] for row in treasury.sql(query, month)}
        before = max(row["record_date"] for row in rows if state_of(row) == state and row["record_date"] < last)
        assert found.pop(state) == (date.fromisoformat(before), None, None, None, False)
        assert {row[-1] for row in found.values()} == {True}


def test_a_number_that_is_written_twice_in_two_ways_is_one(treasury: House) -> None:
    rows = recording(treasury.data, "2021-08-31")["data"]
    amount = rows[400]["outstanding_advance_bal"]
    assert "." in amount
    publish(treasury, "2021-09-01", [*rows, rows[400] | {"outstanding_advance_bal": amount.rstrip("0").rstrip(".")}])
    assert treasury.run(), treasury.failures()
    assert treasury.value("SELECT count(*) FROM quarantine.state_unemployment_advances") == 0
    check_rows(treasury, rows)


def test_a_key_with_two_balances(treasury: House) -> None:
    """Which is right cannot be told: both are kept out, and no other row."""
    rows = recording(treasury.data, "2021-08-31")["data"]
    publish(treasury, "2021-09-01", [*rows, rows[400] | {"outstanding_advance_bal": "1"}])
    assert treasury.run(), treasury.failures()
    check_rows(treasury, [row for row in rows if row is not rows[400]])
    why = f"unique_key: the row is one of 2 with record_date={rows[400]['record_date']}, state_code="
    reasons = [reason for (reason,) in treasury.sql("SELECT reason FROM quarantine.state_unemployment_advances")]
    assert [reason.startswith(why) for reason in reasons] == [True, True]


def test_a_balance_below_nothing_and_a_day_of_another_year(treasury: House) -> None:
    rows = recording(treasury.data, "2021-08-31")["data"]
    wrong = {400: {"outstanding_advance_bal": "-0.01"}, 900: {"record_fiscal_year": "1999"}}
    publish(treasury, "2021-09-01", [row | wrong.get(n, {}) for n, row in enumerate(rows)])
    assert treasury.run(anew=True), treasury.failures()
    check_rows(treasury, [row for n, row in enumerate(rows) if n not in wrong])
    reasons = [reason for (reason,) in treasury.sql("SELECT reason FROM quarantine.state_unemployment_advances")]
    assert sorted(reasons) == [
        f"date_parts_are_those_of_record_date: the row is record_date={rows[900]['record_date']}",
        "greater_than_or_equal_to(0): outstanding_advance_balance is -0.01",
    ]


def test_an_extract_that_is_refused_leaves_what_is_there(house: House) -> None:
    house.datasets = ("treasury_title_xii",)
    house.publish("2021-08-31")
    assert house.run(), house.failures()
    before = {name: house.frame(name) for name in TABLES}
    house.publish("2021-09-30")

    def short(body: bytes) -> bytes:
        document = json.loads(body)
        document["data"].pop()
        return json.dumps(document).encode()

    september = {"filter": "record_date:gte:2021-09-01,record_date:lt:2021-10-01"}
    house.faults.add(PATH, Fault.changed(short), query=september)
    assert not house.run()
    assert "treasury_title_xii: 2021-09, page 1: the envelope says 60 rows and holds 59" in house.failures()
    assert all(house.frame(name).equals(frame) for name, frame in before.items())
    assert house.run(), house.failures()
    assert house.faults.count(PATH, query=september) == 2
    august = {"filter": "record_date:gte:2021-08-01,record_date:lt:2021-09-01"}
    assert house.faults.count(PATH, query=august) == 2  # once for each of the two publications


def test_a_month_that_lags_behind_is_asked_for_again(house: House) -> None:
    """It is whole in itself, and only the number of all rows says that there are more: it is not kept."""
    house.datasets = ("treasury_title_xii",)
    house.publish("2021-09-30")

    def behind(body: bytes) -> bytes:
        document = json.loads(body)
        document["data"].pop()
        for count in ("count", "total-count"):
            document["meta"][count] -= 1
        return json.dumps(document).encode()

    september = {"filter": "record_date:gte:2021-09-01,record_date:lt:2021-10-01"}
    house.faults.add(PATH, Fault.changed(behind), query=september)
    assert not house.run()
    assert "some have no record_date or were added while it was extracted" in house.failures()
    assert house.run(), house.failures()
    assert house.faults.count(PATH, query=september) == 2


@pytest.mark.shared
def test_the_recording(shared_house: House) -> None:
    shared_house.datasets = ("treasury_title_xii",)
    assert shared_house.run(), shared_house.failures()
    rows = recording(shared_house.data, "2021-08-31")["data"]
    assert shared_house.value("SELECT count(*) FROM refined.state_unemployment_advances") == len(rows) == 6820
    check_rows(shared_house, rows)
    check_monthly(shared_house, rows)
    lines = shared_house.value(
        "SELECT count(*) FROM refined.state_unemployment_advances"
        " WHERE record_date = '2020-04-03' AND state = 'Indiana'"
    )
    assert lines == 2
    assert shared_house.value("SELECT count(*) FROM quarantine.state_unemployment_advances") == 0
