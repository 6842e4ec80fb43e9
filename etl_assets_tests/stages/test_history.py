"""Versions of records: which of them are chained, how many records are accounted for, and what is told of them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import polars as pl

from etl_assets.quality.audit import Audit, Bound
from etl_assets.sources.database import DELETED
from etl_assets.stages.batches import BATCH
from etl_assets.stages.history import _chained, _Histories, _Outcome, _reading, _without_repeats
from etl_assets.storage.table import PARTITION, SOURCE_ROW

FIRST, SECOND = dt.date(2024, 1, 1), dt.date(2024, 1, 2)


def test_records_are_versions_or_counted_as_merged() -> None:
    """Counted by themselves, not as what is left over: a version that is lost on the way is missing in the balance."""
    good = pl.DataFrame({"id": [1, 1, 2, 3], "name": ["a", "a", "b", "c"], "valid_from": [FIRST, SECOND, FIRST, FIRST]})
    gone = pl.DataFrame({"id": [2, 9], "valid_from": [SECOND, FIRST], DELETED: [True, True]})
    versions, merged = _chained(good, gone, "id")
    assert versions.select("id", "name", "valid_from", "valid_to", "is_current").rows() == [
        (1, "a", FIRST, None, True),
        (2, "b", FIRST, SECOND, False),
        (3, "c", FIRST, None, True),
    ]
    assert merged == 3
    assert good.height + gone.height == versions.height + merged


def test_what_is_landed_once_more_is_seen_again() -> None:
    """However bad it is; what comes back after something else is a version, and gone is no repeat of there."""
    told = [("1", "a"), ("1", "a"), ("1", "b"), ("1", "a"), ("2", "a"), ("2", None), ("2", None), ("2", None)]
    records = pl.DataFrame(told, ["id", "name"], orient="row").with_columns(
        pl.Series(DELETED, [False] * 7 + [True]),
        pl.Series(BATCH, list("abcdabcd")),
        pl.lit(1).alias(SOURCE_ROW),
        pl.Series("new_column", range(8)),
    )
    kept, repeats = _without_repeats(records.reverse(), "id", ["id", "name"])
    assert kept.select("id", BATCH).rows() == [("1", "a"), ("1", "c"), ("1", "d"), ("2", "a"), ("2", "b"), ("2", "d")]
    assert repeats == 2


def histories(block: str, value: str, *, bad: int, records: int = 1) -> _Histories:
    """A block of ten keys, of which one record is kept out for its value; further records went nowhere."""
    failures = pl.DataFrame({"row": [0], "check": ["readable"], "column": ["price"], "value": [value], "record": [7]})
    kept_out = pl.DataFrame({PARTITION: [block], "reason": [f"readable: price is {value}"]})
    audited = Audit(pl.DataFrame(), pl.DataFrame(), failures)
    return _Histories(audited, pl.DataFrame(), kept_out, records, merged=0, keys={block: 10}, bad_keys={block: bad})


def cases(outcome: _Outcome) -> list[object]:
    """The values that are shown with the reason why blocks were refused."""
    return [case.data["value"] for case in outcome.failure_cases.records] if outcome.failure_cases else []


def test_the_failure_cases_are_those_of_the_block_that_is_named() -> None:
    bound, outcome = Bound(share=0.5, count=0), _Outcome()
    assert outcome.add(histories("0", "few", bad=1), ["0"], bound) == {}
    assert outcome.add(histories("1", "many", bad=9), ["1"], bound).keys() == {"1"}
    assert outcome.add(histories("2", "more", bad=9), ["2"], bound).keys() == {"2"}
    assert outcome.add(histories("3", "lost", bad=9, records=2), ["3"], bound).keys() == {"3"}
    assert cases(outcome) == ["many"]


def test_no_value_is_shown_as_the_reason_why_records_are_lost() -> None:
    """Whatever else is in quarantine: the house is at fault, not the source."""
    bound, outcome = Bound(share=0.5, count=0), _Outcome()
    assert outcome.add(histories("0", "few", bad=1), ["0"], bound) == {}
    assert cases(outcome) == ["few"]
    assert outcome.add(histories("1", "lost", bad=1, records=2), ["1"], bound).keys() == {"1"}
    assert cases(outcome) == []


def test_values_are_read_as_a_database_writes_them() -> None:
    written = {
        "10:00:00.5": (pl.Time(), dt.time(10, 0, 0, 500_000)),
        "2024-01-01 10:00:00+00": (pl.Datetime("us", "UTC"), dt.datetime(2024, 1, 1, 10, tzinfo=dt.UTC)),
        "2024-01-01 10:00:00.25-05:30": (pl.Datetime("us", "UTC"), dt.datetime(2024, 1, 1, 15, 30, 0, 250_000, dt.UTC)),
        "2024-01-01 10:00:00": (pl.Datetime("us"), dt.datetime(2024, 1, 1, 10)),  # noqa: DTZ001 - of no zone
        "24-01-01 10:00:00": (pl.Datetime("us"), None),
        "-0.50": (pl.Decimal(10, 2), Decimal("-0.50")),
        "1.100000": (pl.Decimal(10, 2), Decimal("1.10")),
        "1.005": (pl.Decimal(10, 2), None),
        "123456789.00": (pl.Decimal(10, 2), None),
        "100.0": (pl.Decimal(6, 0), Decimal(100)),
        "100.5": (pl.Decimal(6, 0), None),
        "NaN": (pl.Decimal(10, 2), None),
        "Infinity": (pl.Decimal(10, 2), None),
    }
    for text, (dtype, value) in written.items():
        assert pl.DataFrame({"v": [text]}).select(_reading("v", dtype)).item() == value, text
