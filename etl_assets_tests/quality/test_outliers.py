"""Outliers: values far from the others of those rows that are published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from etl_assets.quality.contract import Contract, column
from etl_assets.quality.outliers import with_outliers


class Priced(Contract, stage="refined", table="priced", key=["id"]):
    """A table with a value of which it is said whether it is an outlier."""

    id: pl.Int64 = column("Key")
    v: pl.Float64 = column("Value", nullable=True)
    of: pl.String = column("What it is of")
    far: pl.Boolean = column("Whether it is an outlier", nullable=True)


def far(values: Sequence[float | None], *, by: str | None = None, **columns: Any) -> list[bool | None]:
    """Which of some values are outliers; their rows keep the contract but for what `columns` give."""
    frame = pl.DataFrame({"id": range(len(values)), "v": values, "of": "a"}, schema_overrides={"v": pl.Float64})
    frame = frame.with_columns(**{name: pl.Series(given) for name, given in columns.items()})
    return with_outliers(frame, Priced, {"far": "v"}, by=by)["far"].to_list()


def test_outliers_are_far_from_the_median() -> None:
    assert far([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000, None]) == [*[False] * 10, True, None]
    # 0.6745 x 15.6 / 3 is 3.507: above 3.5, and 0.6745 x 15.5 / 3 is not.
    assert far([0.0, 3.0, -3.0, 3.0, -3.0, 15.6, -15.5]) == [False] * 5 + [True, False]
    assert far([1, 1, 1, 9]) == [None] * 4
    assert far([1, 2, 3, 30, 30, 40, 50], of=[*"aaaabbb"], by="of") == [False] * 3 + [True] + [False] * 3


def test_what_is_kept_out_of_a_table_does_not_say_what_is_usual_in_it() -> None:
    values = [*range(10, 17), 100, *[50_000] * 8]
    expected = [*[False] * 7, True, *[None] * 8]
    wrong = {"check": "readable", "column": "v", "value": "much"}
    assert far(values, _problems=[*[[]] * 8, *[[wrong]] * 8]) == expected, "by a rule"
    assert far(values, of=[*"a" * 8, *[None] * 8]) == expected, "by the contract"
