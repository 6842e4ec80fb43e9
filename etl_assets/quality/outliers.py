"""Outliers: values that lie far from the others of their column. They are marked, and neither changed nor kept out."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from etl_assets.quality.audit import audit
from etl_assets.quality.contract import Contract

#: Modified z-score above which a value is an outlier, and the ratio of normal data's MAD to its standard deviation.
_OUTLYING, _NORMAL = 3.5, 0.6745


def with_outliers(
    frame: pl.DataFrame, contract: type[Contract], values: Mapping[str, str], by: str | None = None
) -> pl.DataFrame:
    """The frame with columns that say which values lie far from the others: whose modified z-score is above 3.5.

    That is 0.6745 x the distance from the median / the median absolute deviation (Iglewicz and Hoaglin, 1993). `values`
    gives each new column's value; with `by`, only values of the same group are compared. Null where the value is null,
    where more than half of the values are the same, and in rows that break the contract, which are not published and do
    not count.
    """
    judged = frame.with_columns(pl.lit(None, pl.Boolean).alias(name) for name in values).with_row_index("_position")
    is_published = pl.int_range(pl.len()).is_in(audit(judged, contract).good["_position"].implode())
    far = {name: _is_far(pl.when(is_published).then(pl.col(value).cast(pl.Float64))) for name, value in values.items()}
    return frame.with_columns(**{name: is_far.over(by) if by else is_far for name, is_far in far.items()})


def _is_far(number: pl.Expr) -> pl.Expr:
    distance = (number - number.median()).abs()
    return pl.when(distance.median() > 0).then(_NORMAL * distance / distance.median() > _OUTLYING)
