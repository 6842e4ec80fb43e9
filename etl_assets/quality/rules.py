"""Rules: what is done about values that can be read but are wrong. Declared per dataset, counted, and traceable.

A rule says what is wrong with a column, what is done about it and why. Whatever a rule changes is on record in its row:
`corrections` names the rules that changed a value of the row, `values_before` has the value before each correction, in
the same order. A row that a rule keeps out is in quarantine under the rule's name. So "which cells did this rule
change?" is

    SELECT transaction_id, value FROM refined.retail_sales, unnest(corrections, values_before) AS r(rule, value)
    WHERE rule = 'price is negative'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dagster as dg
import polars as pl

from etl_assets.quality.audit import PROBLEMS
from etl_assets.quality.contract import column
from etl_assets.quality.readings import as_read, distinct_as_read
from etl_assets.quality.ui_table import ui_table

CORRECTIONS, BEFORE = "corrections", "values_before"


@dataclass(frozen=True)
class Rule:
    """What is done about a value of `column` where `where` is true; `wrong` says in words what is wrong with it.

    It becomes null, because it cannot be right or (missing) because the source writes a missing value so; or it becomes
    `value` (correct); or its row goes to quarantine.
    """

    column: str
    wrong: str
    where: pl.Expr
    action: Literal["missing", "null", "correct", "quarantine"]
    reason: str
    value: pl.Expr | None = None

    @property
    def name(self) -> str:
        """The rule's name, such as "price is negative"."""
        return f"{self.column} {self.wrong}"


@dataclass(frozen=True)
class Rulebook:
    """How a source's records are read and judged.

    `required` has the columns that it must have; `readings` and `nothing` are those of `readings.as_read`; the rules
    are applied one after another.
    """

    required: Sequence[str]
    readings: Mapping[str, tuple[str, pl.Expr]]
    rules: Sequence[Rule]
    nothing: Sequence[str] = ()


def ambiguous(key: str, reason: str) -> Rule:
    """The rule that keeps out records of which another has the same key, and other values."""
    is_double = pl.col(key).is_duplicated() & pl.col(key).is_not_null()
    return Rule(key, "is of several records", is_double, "quarantine", reason)


def corrections() -> Any:
    """The column that names the rules that changed a row."""
    return column("Rules that changed a value of the row, in the order in which they were applied")


def values_before() -> Any:
    """The column with the values before those corrections."""
    return column("The value before each of those corrections, as text; empty where there was none")


def obey(frame: pl.DataFrame, rules: Sequence[Rule]) -> pl.DataFrame:
    """Apply rules one after another: they change values, and add `corrections`, `values_before` and more `_problems`.

    `frame` may have a column `_problems` already (see `audit.unreadable`).
    """
    notes, before, problems = [], [], []
    for n, rule in enumerate(rules):
        hit, value = pl.col(f"_hit{n}"), pl.col(f"_value{n}")
        frame = frame.with_columns(
            rule.where.fill_null(value=False).alias(f"_hit{n}"), _text(frame, rule.column).alias(f"_value{n}")
        )
        if rule.action == "quarantine":
            problem = pl.struct(check=pl.lit(rule.name), column=pl.lit(rule.column), value=value)
            problems.append(pl.when(hit).then(problem))
            continue
        to = pl.lit(None) if rule.value is None else rule.value
        frame = frame.with_columns(pl.when(hit).then(to).otherwise(rule.column).alias(rule.column))
        notes.append(pl.when(hit).then(pl.lit(rule.name)))
        before.append(pl.when(hit).then(value.fill_null("")))
    nothing = pl.lit(None, pl.String)
    problem_list = pl.concat_list(problems).list.drop_nulls() if problems else None
    known = [pl.col(PROBLEMS)] if PROBLEMS in frame.columns else []
    return frame.with_columns(
        pl.concat_list([*notes, nothing]).list.drop_nulls().alias(CORRECTIONS),
        pl.concat_list([*before, nothing]).list.drop_nulls().alias(BEFORE),
        *([pl.concat_list([*known, problem_list]).alias(PROBLEMS)] if problem_list is not None else []),
    ).drop(pl.selectors.matches(r"^_(hit|value)\d+$"))


def _text(frame: pl.DataFrame, name: str) -> pl.Expr:
    """A column as text; decimals without the zeros that only their type has."""
    text = pl.col(name).cast(pl.String)
    if not isinstance(frame.schema[name], pl.Decimal):
        return text
    return text.str.replace(r"(\.\d*?)0+$", "$1").str.strip_suffix(".")


def by_rules(raw: pl.DataFrame, book: Rulebook) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Raw records, read and after the rules; and the merged ones (see `readings.distinct_as_read`)."""
    rows, merged = distinct_as_read(as_read(raw, book.readings, book.nothing), book.readings)
    return obey(rows, book.rules), merged


def summary(frame: pl.DataFrame, rules: Sequence[Rule]) -> dg.TableMetadataValue:
    """What each rule did to a frame, for the UI: rule, action, rows and reason."""
    names = [frame[CORRECTIONS].list.explode()]
    if PROBLEMS in frame.columns:
        names.append(frame[PROBLEMS].list.explode().struct.field("check"))
    counts = dict(pl.concat(names).drop_nulls().value_counts().iter_rows())
    return ui_table(
        [{"rule": r.name, "action": r.action, "rows": counts.get(r.name, 0), "reason": r.reason} for r in rules]
    )
