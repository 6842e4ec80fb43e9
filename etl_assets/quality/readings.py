"""How records and values are read: a value not in the declared form is null, never guessed. Outer spaces are ignored.

`as_read` notes which values are there but could not be read; the audit puts these records into quarantine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from etl_assets.quality.audit import PROBLEMS, unreadable
from etl_assets.sources.records import UNPARSED
from etl_assets.storage.table import PARTITION, ROW_HASH


def as_read(
    raw: pl.DataFrame, readings: Mapping[str, tuple[str, pl.Expr]], nothing: Sequence[str] = (), **more: pl.Expr | str
) -> pl.DataFrame:
    """The records' values in the contract's types, further columns (`more`), `_problems`, and the raw `_` columns.

    `readings` gives, per column of the contract, the source's column and the expression that reads it; a source may
    lack a column. `nothing` has the source's own markers for a missing value.
    """
    known = {name: reading for name, reading in readings.items() if reading[0] in raw.columns}
    return raw.select(
        *(expression.alias(name) for name, (_, expression) in readings.items()),
        unreadable(known, nothing),
        pl.selectors.starts_with("_"),
        **more,
    )


def date_by_form(text: pl.Expr, forms: Mapping[str, str]) -> pl.Expr:
    """A date, read by the form that it is written in: `forms` maps each form, a regular expression, to its format.

    Null for a text in none of the forms, and for a date that does not exist, such as the 13th day of a 13th month.
    """
    text = text.str.strip_chars()
    return of_this_era(
        pl.coalesce(
            pl.when(text.str.contains(rf"^(?:{form})$")).then(text.str.to_date(format_, strict=False))
            for form, format_ in forms.items()
        )
    )


def day(text: pl.Expr) -> pl.Expr:
    """A date that is written year first, as 2024-11-05; null for another form, such as a year of two digits."""
    return date_by_form(text, {r"\d{4}-\d{1,2}-\d{1,2}": "%Y-%m-%d"})


def of_this_era(time: pl.Expr) -> pl.Expr:
    """Days and moments from the year 1 to 9999; null for others, which Python and most readers do not support."""
    return pl.when(time.dt.year().is_between(1, 9999)).then(time)


def exact(text: pl.Expr, kind: pl.Decimal) -> pl.Expr:
    """A decimal, read without loss: null for more digits than the type has, and for text that is not a number.

    Zeros at the end do not count as excess digits. A small one may have an exponent, since programs write 6.1e-05; a
    large one may not: in 1E+05, a spreadsheet may have left digits out.
    """
    text = text.str.strip_chars()
    fraction = rf"(\.\d{{1,{kind.scale}}}0*)?" if kind.scale else r"(\.0+)?"
    is_plain = text.str.contains(rf"^-?\d{{1,{kind.precision - kind.scale}}}{fraction}$")
    small = text.str.extract_groups(r"^-?\d(?:\.(?<digits>\d+))?[eE]-(?<exponent>\d{1,3})$").struct
    places = small.field("digits").str.len_chars().fill_null(0) + small.field("exponent").cast(pl.UInt32)
    return pl.when(is_plain | (places <= kind.scale)).then(text).cast(kind, strict=False)


def whole(text: pl.Expr, kind: type[pl.Int32 | pl.Int64] = pl.Int64) -> pl.Expr:
    """A whole number of up to 18 digits, otherwise null. 56.0 is one: pandas writes them so in columns with gaps."""
    text = text.str.strip_chars().str.replace(r"\.0+$", "")
    return pl.when(text.str.contains(r"^-?\d{1,18}$")).then(text).cast(kind, strict=False)


def number(text: pl.Expr) -> pl.Expr:
    """A number; null for anything else, including "nan" and "inf"."""
    value = text.str.strip_chars().cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def moment(text: pl.Expr) -> pl.Expr:
    """A moment with any offset, with or without fractions of a second; one without an offset is UTC."""
    text = text.str.strip_chars()
    with_offset = pl.when(text.str.contains(r"(Z|[+-]\d\d:\d\d)$")).then(text).otherwise(text + "Z")
    return of_this_era(with_offset.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False))


def distinct(raw: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first of each set of equal raw records; and the others, which are merged into these."""
    is_first = raw.select(pl.struct(PARTITION, ROW_HASH).is_first_distinct()).to_series()
    return raw.filter(is_first), raw.filter(~is_first)


def distinct_as_read(rows: pl.DataFrame, by: Iterable[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first of each set of rows that are equal in the columns `by`; and the others, which are merged into these.

    Values that are read as the same are equal, such as 1 and 1.0. Rows that could not be read completely (see
    `audit.unreadable`) are equal only if they are also written the same.
    """
    is_unread = pl.col(UNPARSED).is_not_null()
    if PROBLEMS in rows.columns:
        is_unread |= pl.col(PROBLEMS).list.len() > 0
    written = pl.when(is_unread).then(ROW_HASH).alias(ROW_HASH)
    is_first = rows.select(pl.struct(PARTITION, *by, written).is_first_distinct()).to_series()
    return rows.filter(is_first), rows.filter(~is_first)


def optional(rows: pl.DataFrame, name: str) -> pl.Expr:
    """A column that the source does not always have; null where it is absent."""
    return pl.col(name) if name in rows.columns else pl.lit(None, pl.String)
