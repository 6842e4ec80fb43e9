"""The language of OData's `$filter`, as much of it as WHO GHO understands: a condition becomes a test of a row.

Here: its tokens and grammar, which types can be compared, and a field's comparable value.
Not here: which fields there are and of which types, and every other query option (gho.py).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from etl_assets.local.apis.querying import BadQueryError, Row, Table, Test, Value

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')
      | (?P<moment>\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|[+-]\d\d:\d\d))?)
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>[(),]))""",
    re.VERBOSE | re.ASCII,
)


class Filter:
    """What `$filter` says, as a test of a row: comparisons, `in`, `and`, `or`, `not`, `date()`, `contains()`."""

    def __init__(self, condition: str, table: Table) -> None:
        self._table = table
        self._tokens: list[tuple[str, str]] = []
        position, condition = 0, condition.strip()
        while position < len(condition):
            found = _TOKEN.match(condition, position)
            if found is None:
                raise BadQueryError(f"syntax error at position {position} in '{condition}'")
            self._tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
            position = found.end()
        self._tokens.append(("end", "the end"))
        self.test = self._any()
        self._expect("the end")

    def _next(self) -> tuple[str, str]:
        return self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]

    def _accept(self, token: str) -> bool:
        accepted = self._tokens[0][1] == token and self._tokens[0][0] != "text"
        if accepted:
            self._next()
        return accepted

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise BadQueryError(f"'{token}' was expected in place of '{self._tokens[0][1]}'")

    def _any(self) -> Test:
        tests = [self._all()]
        while self._accept("or"):
            tests.append(self._all())
        return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)

    def _all(self) -> Test:
        tests = [self._condition()]
        while self._accept("and"):
            tests.append(self._condition())
        return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)

    def _condition(self) -> Test:
        if self._accept("("):
            inner = self._any()
            self._expect(")")
            return inner
        if self._accept("not"):
            negated = self._condition()
            return lambda row: not negated(row)
        if self._accept("contains"):
            self._expect("(")
            whole = self._operand()
            self._expect(",")
            part = self._operand()
            self._expect(")")
            _same_type(whole, part, "contains")
            return lambda row: (part[1](row) or "") in (whole[1](row) or "")
        left = self._operand()
        name = self._next()[1]
        if name == "in":
            self._expect("(")
            tests = [_compare(left, "eq", self._operand())]
            while self._accept(","):
                tests.append(_compare(left, "eq", self._operand()))
            self._expect(")")
            return lambda row: any(test(row) for test in tests)
        if name not in _COMPARISONS:
            raise BadQueryError(f"'{name}' is not an operator")
        return _compare(left, name, self._operand())

    def _operand(self) -> tuple[str, Value]:
        kind, text = self._next()
        constant: Any = None
        edm_type = "null"
        try:
            if kind == "text":
                edm_type, constant = "Edm.String", text[1:-1].replace("''", "'")
            elif kind == "number":
                edm_type, constant = "Edm.Double", float(text)
            elif kind == "moment" and "T" in text:
                edm_type, constant = "Edm.DateTimeOffset", datetime.fromisoformat(text)
            elif kind == "moment":
                edm_type, constant = "Edm.Date", date.fromisoformat(text)
        except ValueError:
            raise BadQueryError(f"'{text}' is not a date") from None
        if constant is not None or text == "null":
            return edm_type, lambda row: constant
        if text == "date" and self._accept("("):
            edm_type, value = self._operand()
            self._expect(")")
            if edm_type != "Edm.DateTimeOffset":
                raise BadQueryError(f"date() of a value of the type '{edm_type}'")
            return "Edm.Date", lambda row: (moment := value(row)) and moment.date()
        if kind != "word":
            raise BadQueryError(f"a field or a value was expected in place of '{text}'")
        edm_type = self._table.type_of(text)
        return edm_type, typed(text, edm_type)


def _same_type(left: tuple[str, Value], right: tuple[str, Value], name: str) -> None:
    numbers = {"Edm.Int32", "Edm.Double"}
    if not (left[0] == right[0] or "null" in (left[0], right[0]) or {left[0], right[0]} <= numbers):
        raise BadQueryError(f"'{name}' cannot be used between the types '{left[0]}' and '{right[0]}'")


def _compare(left: tuple[str, Value], name: str, right: tuple[str, Value]) -> Test:
    _same_type(left, right, name)
    compare = _COMPARISONS[name]
    if name in ("eq", "ne"):
        return lambda row: compare(left[1](row), right[1](row))

    def test(row: Row) -> bool:
        a, b = left[1](row), right[1](row)
        return a is not None and b is not None and compare(a, b)

    return test


def typed(name: str, edm_type: str) -> Value:
    """A reader of a field's comparable value: a moment as a datetime, in UTC if it has no time zone."""

    def moment(row: Row) -> datetime | None:
        found = datetime.fromisoformat(row[name]) if row.get(name) else None
        return found if found is None or found.tzinfo else found.replace(tzinfo=UTC)

    return moment if edm_type == "Edm.DateTimeOffset" else lambda row: row.get(name)
