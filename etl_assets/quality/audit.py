"""Audit a frame against its contract before anything is written.

The audit splits a frame: rows that keep the contract, and rows that do not, each with the checks it failed. What no
single row is to blame for (a missing column, another type) is an error of the frame as a whole, and nothing of it may
be published. Rows that share a key contradict each other: if each comes from a record of the source, all of them are
kept out; if a stage made them, it made a mistake, and that is an error of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import dagster as dg
import numpy as np
import pandera.errors
import pandera.polars
import polars as pl
import shapely

from etl_assets.quality.contract import Contract
from etl_assets.quality.ui_table import ui_table
from etl_assets.sources.records import UNPARSED
from etl_assets.storage.table import SOURCE_ROW

#: A column that a stage's function may add: what it already knows to be wrong with a row (see `unreadable`).
PROBLEMS = "_problems"
_PROBLEM = pl.Struct({"check": pl.String, "column": pl.String, "value": pl.String})
_VALUE_LENGTH = 200
_EXAMPLES = 20
#: Length in characters from which on a check's arguments, such as all state codes, are left out of its name.
_LONG_ARGUMENTS = 60
#: Bytes of text in a key: PostgreSQL's B-tree takes 2,704 in all (a third of a page).
_LONGEST_KEY = 2_000


@dataclass(frozen=True)
class Bound:
    """How many rows of one partition may be quarantined before the partition is refused: more than both is too many."""

    share: float = 0.05
    count: int = 20

    def exceeded(self, rejected: int, rows: int) -> bool:
        """Whether `rejected` of `rows` is too many."""
        return rejected > self.count and rejected > self.share * rows

    def refusal(self, rejected: int, rows: int) -> str:
        """Why so many are refused, for a person."""
        return f"{rejected} of {rows} rows break the contract: more than {self.count} rows and {self.share:.0%}"


def balance(rows_in: int, rows_out: int, quarantined: int, merged: int) -> dg.AssetCheckResult:
    """The check `balance`: every record is published, quarantined or merged, and none of them twice."""
    lost = rows_in - rows_out - quarantined - merged
    return dg.AssetCheckResult(
        passed=lost == 0,
        check_name="balance",
        description=f"{lost} rows are unaccounted for" if lost else None,
        metadata={"rows_in": rows_in, "rows_out": rows_out, "quarantined": quarantined, "merged": merged},
    )


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    `failures` has one row per failed check: `row` (position in the audited frame), `check`, `column`, `value`, and
    `record`, the number of the source's record where the frame knows it.
    """

    good: pl.DataFrame = field(repr=False)
    rejected: pl.DataFrame = field(repr=False)
    failures: pl.DataFrame = field(repr=False)
    errors: tuple[str, ...] = ()

    def of_rows(self, rejected: pl.Series) -> Audit:
        """What was found for some of the rejected rows, given as a mask."""
        rows = self.failures["row"].unique().sort().filter(rejected)
        return replace(
            self,
            rejected=self.rejected.filter(rejected),
            failures=self.failures.filter(pl.col("row").is_in(rows.implode())),
        )

    def example(self) -> str:
        """The first of the failures, in words."""
        first = self.failures.row(0, named=True)
        what = f"{first['check']}: {first['column'] or 'the row'} is {first['value'] or 'missing'}"
        return f"record {first['record']} ({what})"

    def examples(self) -> dg.TableMetadataValue:
        """Some of the failures as a table for the UI, at most five of each check."""
        some = self.failures.group_by("column", "check", maintain_order=True).head(5).head(_EXAMPLES)
        return ui_table([{c: row[c] for c in ("check", "column", "value", "record")} for row in some.to_dicts()])

    def counts(self) -> dg.TableMetadataValue:
        """Failures per check as a table for the UI."""
        counted = self.failures.group_by("check", "column").len("rows").sort("rows", "check", descending=[True, False])
        return ui_table(counted.to_dicts())


def audit(frame: pl.DataFrame, contract: type[Contract]) -> Audit:
    """Split a frame into rows that keep the contract and rows that do not.

    The frame may carry further columns whose name begins with `_`; they stay with their rows. Values are not
    changed. Never raises for bad data.
    """
    carried = [c for c in frame.columns if c.startswith("_")]
    body = frame.drop(carried)
    declared = contract.columns()
    errors = _shape_errors(body, declared)
    if errors:
        return Audit(frame.clear(), frame.clear(), _no_failures(), tuple(errors))
    body = body.select(list(declared))
    key = contract.place().key
    failures = [
        _known_problems(frame),
        _unparsed(frame),
        _missing(body, declared),
        _not_finite(body),
        _geometry_failures(body, declared),
        _long_keys(body, key),
    ]
    schema = _schema(contract)
    try:
        schema.validate(body.select(pl.exclude(pl.Binary)), lazy=True)
    except pandera.errors.SchemaErrors as found:
        # A check that gives one answer for all rows is about the whole frame; pandera would blame the first row.
        answers = [(error.check, error.check_output) for error in found.schema_errors]
        of_all = [c.name for c, given in answers if c and isinstance(given, pl.DataFrame) and len(given) != len(body)]
        errors.extend(f"{name}: is not true of the rows as a whole" for name in of_all)
        cases = found.failure_cases.filter(~pl.col("check").is_in(of_all).fill_null(False))
        whole = cases.filter(pl.col("index").is_null())
        errors.extend(f"{case['check']}: {case['failure_case']}" for case in whole.head(_EXAMPLES).to_dicts())
        of_rows = cases.filter(pl.col("index").is_not_null()).select(
            row=pl.col("index").cast(pl.Int64),
            check=pl.col("check").str.replace(rf"\(.{{{_LONG_ARGUMENTS},}}\)$", "(…)"),
            column=pl.when(schema_context="Column").then("column").otherwise(pl.lit("")),
            value=pl.col("failure_case").cast(pl.String).str.slice(0, _VALUE_LENGTH),
        )
        failures.append(_with_values(of_rows, body))
    except pandera.errors.SchemaError as found:
        errors.append(str(found)[:500])
    wrong = pl.concat(failures)
    repeated = _repeated(body, key, wrong["row"])
    if SOURCE_ROW in frame.columns:
        wrong = pl.concat([wrong, repeated])
    elif repeated.height:
        errors.append(
            f"the key ({', '.join(key)}) is not unique: {repeated.height} rows, such as {repeated['value'][0]}"
        )
    failed = wrong.unique(maintain_order=True).sort("row", maintain_order=True)
    source_rows = frame[SOURCE_ROW] if SOURCE_ROW in frame.columns else pl.Series([None] * frame.height, dtype=pl.Int64)
    failed = failed.with_columns(record=source_rows.gather(failed["row"]))
    bad = pl.int_range(frame.height, eager=True).is_in(failed["row"].unique().implode())
    columns = [c for c in (*declared, *carried) if c != PROBLEMS]
    return Audit(frame.filter(~bad).select(columns), frame.filter(bad).select(columns), failed, tuple(errors))


def unreadable(readings: Mapping[str, tuple[str, pl.Expr]], nothing: Sequence[str] = ()) -> pl.Expr:
    """The `_problems` column: values of the source that are there but could not be read.

    `readings` gives, per column of the contract, the source's column and the expression that reads it. `nothing` has
    the source's own markers for a missing value.
    """
    problems = [
        pl.when(
            pl.col(source).is_not_null() & ~pl.col(source).str.strip_chars().is_in(list(nothing)) & expression.is_null()
        ).then(
            pl.struct(
                check=pl.lit("readable"),
                column=pl.lit(name),
                value=pl.col(source).str.slice(0, _VALUE_LENGTH),
            )
        )
        for name, (source, expression) in readings.items()
    ]
    none = pl.lit(None, _PROBLEM)  # concat_list needs at least one expression
    return pl.concat_list([*problems, none]).list.drop_nulls().alias(PROBLEMS)


@cache
def _schema(contract: type[Contract]) -> pandera.polars.DataFrameSchema:
    """The part of a contract that pandera has to judge: it takes milliseconds for each column.

    Missing values are found in all columns at once, so columns without checks are left out. Geometry is judged
    separately: pandera renders a failing row as JSON, which polars cannot do with bytes.
    """
    schema = contract.to_schema()
    idle = [name for name, column in schema.columns.items() if column.dtype.type == pl.Binary or not column.checks]
    judged = schema.remove_columns(idle)
    judged = judged.update_columns({name: {"nullable": True} for name in judged.columns})
    judged.strict = False
    return judged


def _shape_errors(body: pl.DataFrame, declared: Mapping[str, Any]) -> list[str]:
    errors = []
    missing = [c for c in declared if c not in body.columns]
    extra = [c for c in body.columns if c not in declared]
    if missing or extra:
        errors.append(f"columns: missing {missing or 'none'}, not in the contract {extra or 'none'}")
    for name, column in declared.items():
        wanted = column.dtype.type
        if name in body.columns and body.schema[name] != wanted:
            errors.append(f"column {name}: the type is {body.schema[name]}, the contract says {wanted}")
    return errors


def _repeated(body: pl.DataFrame, key: Sequence[str], bad: pl.Series) -> pl.DataFrame:
    """The rows that are good by themselves, but share their key with another such row."""
    if not key:
        return _no_failures()
    rows = body.select(key).with_row_index("row").filter(~pl.col("row").is_in(bad.unique().implode()))
    repeated = rows.filter(pl.struct(key).is_duplicated())
    why = pl.concat_str(pl.lit("one of "), pl.len().over(key), pl.lit(" with "), _values_as_text(key))
    return _failed(repeated, "unique_key", "", why)


def _with_values(failures: pl.DataFrame, body: pl.DataFrame) -> pl.DataFrame:
    """Failures; those of checks on whole rows show the values of the columns that the check's name mentions."""
    told = [failures.filter(pl.col("column") != "")]
    plain = [name for name, kind in body.schema.items() if not kind.is_nested() and kind != pl.Binary]
    for (check,), own in failures.filter(column="").partition_by("check", as_dict=True).items():
        named = [name for name in plain if f"_{name}_" in f"_{check}_"]
        if not named:  # keep the beginning of the row, as pandera gives it
            told.append(own)
            continue
        values = body.select(_values_as_text(named).str.slice(0, _VALUE_LENGTH)).to_series()
        told.append(own.with_columns(value=values.gather(own["row"])))
    return pl.concat(told)


def _values_as_text(names: Sequence[str]) -> pl.Expr:
    """The values of some columns with their names, as text."""
    texts = [pl.lit(f"{name}=") + pl.col(name).cast(pl.String).fill_null("") for name in names]
    return pl.concat_str(texts, separator=", ")


def _missing(body: pl.DataFrame, declared: Mapping[str, Any]) -> pl.DataFrame:
    """Rows without a value where there has to be one."""
    names = [name for name, column in declared.items() if not column.nullable]
    return _flagged(body, body.select(pl.col(name).is_null() for name in names), "not_nullable")


def _not_finite(body: pl.DataFrame) -> pl.DataFrame:
    """Rows with NaN or an infinite number, which are no measurements; bounds would let NaN pass."""
    return _flagged(body, body.select(~pl.selectors.float().is_finite()), "finite")


def _flagged(body: pl.DataFrame, flags: pl.DataFrame, check: str) -> pl.DataFrame:
    """Failures of a check where its flags are true; `flags` has one column for each column that is checked."""
    found = [_no_failures()]
    for name in flags.columns:
        if flags[name].any():
            value = pl.col(name).cast(pl.String) if body.schema[name].is_float() else pl.lit(None, pl.String)
            rows = body.with_row_index("row").filter(flags[name])
            found.append(_failed(rows, check, name, value))
    return pl.concat(found)


def _long_keys(body: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Rows whose key is too long for the index of a warehouse."""
    texts = [name for name in key if body.schema[name] == pl.String]
    if not texts:
        return _no_failures()
    size = pl.sum_horizontal(pl.col(name).str.len_bytes() for name in texts).cast(pl.Int64)
    rows = body.select(size=size).with_row_index("row").filter(pl.col("size") > _LONGEST_KEY)
    why = pl.concat_str("size", pl.lit(f" bytes, more than {_LONGEST_KEY}"))
    return _failed(rows, "key_length", ", ".join(texts), why)


def _failed(rows: pl.DataFrame, check: str | pl.Expr, column: str, value: pl.Expr) -> pl.DataFrame:
    """Rows, numbered by `row`, as failures of a check."""
    return rows.select(
        row=pl.col("row").cast(pl.Int64),
        check=pl.lit(check) if isinstance(check, str) else check,
        column=pl.lit(column),
        value=value.str.slice(0, _VALUE_LENGTH),
    )


def _no_failures() -> pl.DataFrame:
    return pl.DataFrame(schema={"row": pl.Int64, "check": pl.String, "column": pl.String, "value": pl.String})


def _known_problems(frame: pl.DataFrame) -> pl.DataFrame:
    if PROBLEMS not in frame.columns:
        return _no_failures()
    listed = frame.select(PROBLEMS).with_row_index("row").filter(pl.col(PROBLEMS).list.len() > 0)
    if listed.is_empty():
        return _no_failures()
    return listed.explode(PROBLEMS).unnest(PROBLEMS).with_columns(pl.col("row").cast(pl.Int64))


def _unparsed(frame: pl.DataFrame) -> pl.DataFrame:
    """Records whose number of fields is not the header's: that is why values are missing in them."""
    if UNPARSED not in frame.columns:
        return _no_failures()
    records = frame.select(UNPARSED).with_row_index("row").filter(pl.col(UNPARSED).is_not_null())
    return _failed(records, "fields", "", pl.col(UNPARSED))


def _in_degrees(shapes: np.ndarray) -> np.ndarray:
    """Whether shapes may be in longitude and latitude: none in metres pass, and few with swapped axes.

    A shape that crosses the date line may extend beyond it.
    """
    west, south, east, north = shapely.bounds(shapes).T
    return (west >= -360) & (east <= 360) & (south >= -90) & (north <= 90)


def _geometry_failures(body: pl.DataFrame, declared: Mapping[str, Any]) -> pl.DataFrame:
    """What pandera cannot see in WKB: is it a geometry of the declared type, not empty, valid and in degrees."""
    found = [_no_failures()]
    for name, column in declared.items():
        geometry = (column.metadata or {}).get("geometry")
        if geometry is None:
            continue
        # Many rows share a point: judge each distinct value once.
        values = body.select(name).drop_nulls().unique()
        shapes = shapely.from_wkb(values[name].to_numpy(), on_invalid="ignore")
        types = shapely.get_type_id(shapes)
        # Points are made from columns, which have their own bounds, or are read as degrees.
        is_judged = geometry.srid == 4326 and geometry.type != "Point"
        is_in_degrees = _in_degrees(shapes) if is_judged else np.full(len(shapes), fill_value=True)
        wanted = getattr(shapely.GeometryType, geometry.type.upper())
        verdict = pl.DataFrame(
            {"null": shapely.is_missing(shapes), "type": types != wanted, "empty": shapely.is_empty(shapes),
             "valid": shapely.is_valid(shapes), "degrees": is_in_degrees},
        ).select(
            pl.when("null").then(pl.lit("is_wkb"))
            .when("type").then(pl.lit(f"is_{geometry.type.lower()}"))
            .when("empty").then(pl.lit("is_not_empty"))
            .when(~pl.col("valid")).then(pl.lit("is_valid_geometry"))
            .when(~pl.col("degrees")).then(pl.lit("is_in_degrees"))
            .alias("check")
        )["check"]  # fmt: skip
        wrong = values.with_columns(check=verdict).drop_nulls("check")
        if wrong.height:
            rows = body.select(name).with_row_index("row").join(wrong, on=name, how="inner")
            found.append(_failed(rows, pl.col("check"), name, pl.col(name).bin.encode("hex").str.slice(0, 80)))
    return pl.concat(found)
