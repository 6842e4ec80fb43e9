"""Rules: what they change is on record, what they keep out is named, and what is wrong is only what they say."""

from __future__ import annotations

from decimal import Decimal

import polars as pl

from etl_assets.quality.rules import Rule, obey, summary


def test_every_change_is_on_record() -> None:
    money = pl.Series(
        [Decimal("-8.299"), Decimal("10.50"), None, Decimal("100"), Decimal("5")], dtype=pl.Decimal(20, 9)
    )
    frame = pl.DataFrame({"price": money, "place": ["", "X", "Y", "", "Y"]})
    rules = (
        Rule("price", "is finer than a cent", pl.col("price") != pl.col("price").round(2), "correct", "noise",
             pl.col("price").round(2)),
        Rule("price", "is negative", pl.col("price") < 0, "null", "no price"),
        Rule("place", "is blank", pl.col("place") == "", "null", "nothing"),
        Rule("price", "is missing", pl.col("price").is_null(), "quarantine", "nothing to keep"),
        Rule("price", "is too much", pl.col("price") > 99, "quarantine", "too much"),
    )  # fmt: skip
    found = obey(frame, rules)
    assert found.columns == ["price", "place", "corrections", "values_before", "_problems"]
    assert found.select("price", "place").rows() == [
        (None, None), (Decimal("10.50"), "X"), (None, "Y"), (Decimal(100), None), (Decimal(5), "Y"),
    ]  # fmt: skip
    assert found["corrections"].to_list() == [
        ["price is finer than a cent", "price is negative", "place is blank"], [], [], ["place is blank"], [],
    ]  # fmt: skip
    assert found["values_before"].to_list() == [["-8.299", "-8.3", ""], [], [], [""], []]
    problems = [[(p["check"], p["column"], p["value"]) for p in row] for row in found["_problems"].to_list()]
    assert problems == [
        [("price is missing", "price", None)], [], [("price is missing", "price", None)],
        [("price is too much", "price", "100")], [],
    ]  # fmt: skip
    counts = {row.data["rule"]: (row.data["action"], row.data["rows"]) for row in summary(found, rules).records}
    assert counts["place is blank"] == ("null", 2)
    assert counts["price is missing"] == ("quarantine", 2)


def test_a_value_that_was_not_there_has_its_place_among_those_before() -> None:
    """Otherwise a value would stand beside the name of another rule."""
    frame = pl.DataFrame({"price": [None, 2], "place": ["X", "X"]}, schema_overrides={"price": pl.Int64})
    rules = (
        Rule("price", "is missing", pl.col("price").is_null(), "correct", "it was free", pl.lit(0)),
        Rule("place", "is X", pl.col("place") == "X", "null", "no place"),
    )
    found = obey(frame, rules)
    assert found["price"].to_list() == [0, 2]
    assert found["corrections"].to_list() == [["price is missing", "place is X"], ["place is X"]]
    assert found["values_before"].to_list() == [["", "X"], ["X"]]


def test_without_rules_or_rows_nothing_is_changed() -> None:
    frame = pl.DataFrame({"price": [1, 2]})
    assert obey(frame, ()).drop("corrections", "values_before").equals(frame)
    rule = Rule("price", "is negative", pl.col("price") < 0, "null", "no price")
    assert obey(frame.clear(), [rule]).schema["corrections"] == pl.List(pl.String)
    assert [row.data["rows"] for row in summary(obey(frame.clear(), [rule]), [rule]).records] == [0]
