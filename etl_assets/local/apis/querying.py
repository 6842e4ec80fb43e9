"""What more than one of the APIs does with a query: read recordings, sort their rows, refuse what makes no sense.

Here: recorded rows with their types, the order they come in, and single parameters of a request.
Not here: what an API calls its parameters and how it words a refusal, and what one API alone does (its module).

An API that promises no order keeps none: each request sees the rows, or the rows that a sort leaves equal, in another
of a few orders. A client that pages without sorting by a whole key gets some rows twice and misses others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

from etl_assets.local.recordings import Recording
from etl_assets.local.routes import Request

Row = Mapping[str, Any]
Test = Callable[[Row], bool]
Value = Callable[[Row], Any]
T = TypeVar("T")

#: The number of orders in which an API that promises none gives its rows; a request's turn says which one.
ORDERS = 4


class BadQueryError(Exception):
    """A query that the API refuses; each API says so in its own way."""


@dataclass(frozen=True, eq=False)  # compared by identity, so that what is cached for it goes with it
class Table:
    """Recorded rows, with the type of each of their fields as the API calls it."""

    rows: Sequence[Row]
    types: Mapping[str, str]
    meta: Mapping[str, Any]

    def type_of(self, name: str) -> str:
        """The type of a field; raises BadQueryError if there is no such field."""
        try:
            return self.types[name]
        except KeyError:
            raise BadQueryError(f"there is no field '{name}'") from None


def read(recording: Recording, parse: Callable[[bytes], T]) -> T:
    """Parse a recording, once for as long as it stays the same."""
    stat = recording.path.stat()
    return _parsed(recording, stat.st_mtime_ns, stat.st_size, parse)


@lru_cache(maxsize=32)
def _parsed(recording: Recording, mtime_ns: int, size: int, parse: Callable[[bytes], Any]) -> Any:
    return parse(recording.read())


def in_some_order(rows: Iterable[Row], turn: int) -> list[Row]:
    """The rows in the order of that turn."""
    shuffled = list(rows)
    random.Random(turn).shuffle(shuffled)  # noqa: S311 - repeatable is what is wanted
    return shuffled


def sorted_by(rows: list[Row], keys: Sequence[tuple[Value, bool]]) -> list[Row]:
    """Sort by several keys, each ascending or descending; nulls come first in an ascending one."""
    for value, descending in reversed(keys):
        rows = sorted(rows, key=partial(_nulls_first, value), reverse=descending)
    return rows


def _nulls_first(value: Value, row: Row) -> tuple[bool, Any]:
    found = value(row)
    return (False, 0) if found is None else (True, found)


def parameter(request: Request, name: str) -> str | None:
    """The value of a parameter that can be there once, or None."""
    match request.query.get(name, []):
        case []:
            return None
        case [value]:
            return value
    raise BadQueryError(f"'{name}' is given more than once")


def whole_number(text: str | None, name: str) -> int | None:
    """The value of the parameter `name` as a number, or None where it is not there."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise BadQueryError(f"'{text}' is not a value for '{name}'")
    return int(text)
