"""US Treasury Fiscal Data: tables in which every value is text, in an envelope that says what each text means.

Here: its filters, sorting, numbered pages, envelope, CSV and errors.
Not here: its datasets, with their fields and types: each is a recording.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlencode

from etl_assets.local.apis.querying import (
    ORDERS,
    BadQueryError,
    Row,
    Table,
    Test,
    in_some_order,
    parameter,
    read,
    sorted_by,
    whole_number,
)
from etl_assets.local.routes import Request, Response, Route

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_PATH = ("services", "api", "fiscal_service", "v2", "accounting", "od")
_PARAMETERS = ("fields", "filter", "sort", "format", "page[number]", "page[size]")
_LARGEST_PAGE = 10_000
_NULL = "null"


def treasury() -> Route:
    """US Treasury Fiscal Data under `/treasury/services/api/fiscal_service/v2/accounting/od`."""
    turns = itertools.cycle(range(ORDERS))

    def answer(request: Request) -> Response | None:
        if request.segments[1:2] != ("services",):
            return None
        if request.method != "GET":
            return _error(405, "Method Not Allowed", "only GET requests are answered", {"Allow": "GET"})
        *path, name = request.segments[1:]
        recording = request.recordings.latest("treasury").get(f"{name}.json")
        if tuple(path) != _PATH or recording is None:
            return _error(404, "Not Found", f"there is no endpoint {request.path}")
        try:
            return _page(request, read(recording, _dataset), next(turns))
        except BadQueryError as error:
            return _error(400, "Invalid Query Param", f"Invalid query parameter: {error}.")

    return answer


def _error(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps({"error": error, "message": message}).encode()
    return Response(status, body, "application/json", headers or {})


def _dataset(content: bytes) -> Table:
    recorded = json.loads(content)
    meta = {name: recorded[name] for name in ("labels", "dataTypes", "dataFormats")}
    return Table(recorded["data"], meta["dataTypes"], meta)


def _page(request: Request, table: Table, turn: int) -> Response:
    if unknown := [name for name in request.query if name not in _PARAMETERS]:
        raise BadQueryError(f"there is no parameter '{unknown[0]}'")
    rows = _rows(table, parameter(request, "filter"), parameter(request, "sort"), turn)
    fields = (parameter(request, "fields") or ",".join(table.types)).split(",")
    for field in fields:
        table.type_of(field)
    number, size = (
        whole_number(parameter(request, name) or default, name) or 0
        for name, default in (("page[number]", "1"), ("page[size]", "100"))
    )
    if not 1 <= size <= _LARGEST_PAGE:
        raise BadQueryError(f"'page[size]' is {size}, but must be from 1 to {_LARGEST_PAGE}")
    pages = -(-len(rows) // size)
    if not 1 <= number <= max(pages, 1):
        raise BadQueryError(f"'page[number]' is {number}, but there are {pages} pages")
    page = [{field: row[field] for field in fields} for row in rows[(number - 1) * size : number * size]]

    form = parameter(request, "format") or "json"
    if form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fields)
        writer.writeheader()
        writer.writerows(page)
        return Response(200, text.getvalue().encode(), "text/csv;charset=UTF-8")
    if form != "json":
        raise BadQueryError(f"'format' is '{form}', but must be json or csv here")

    def link(to: int) -> str:
        return "&" + urlencode({"page[number]": to, "page[size]": size})

    content = {
        "data": page,
        "meta": {
            "count": len(page),
            **{name: {field: of[field] for field in fields} for name, of in table.meta.items()},
            "total-count": len(rows),
            "total-pages": pages,
        },
        "links": {
            "self": link(number),
            "first": link(1),
            "prev": link(number - 1) if number > 1 else None,
            "next": link(number + 1) if number < pages else None,
            "last": link(max(pages, 1)),
        },
    }
    return Response(200, json.dumps(content, separators=(",", ":")).encode(), "application/json")


@lru_cache(maxsize=64)
def _rows(table: Table, conditions: str | None, sort: str | None, turn: int) -> list[Row]:
    # A comma between parentheses separates the values of a list.
    tests = [_test(condition, table) for condition in re.split(r",(?![^(]*\))", conditions or "") if condition]
    # By the first field if nothing else is asked for; a client that needs more has to say so.
    keys = []
    for item in (sort or next(iter(table.types))).split(","):
        name = item.removeprefix("-")
        keys.append((partial(_value, name=name, kind=table.type_of(name)), item != name))
    return sorted_by(in_some_order((row for row in table.rows if all(test(row) for test in tests)), turn), keys)


def _test(condition: str, table: Table) -> Test:
    name, _, rest = condition.partition(":")
    comparison, _, text = rest.partition(":")
    kind = table.type_of(name)
    if comparison not in (*_COMPARISONS, "in") or not text:
        raise BadQueryError(f"'{condition}' is not a filter of the form field:operator:value")
    if comparison == "in":
        if not (text.startswith("(") and text.endswith(")")):
            raise BadQueryError(f"'{condition}' has no list of the form (a,b)")
        values = [_constant(value, kind) for value in text[1:-1].split(",")]
        return lambda row: _value(row, name, kind) in values
    constant, compare = _constant(text, kind), _COMPARISONS[comparison]
    if comparison == "eq":
        return lambda row: _value(row, name, kind) == constant
    return lambda row: (value := _value(row, name, kind)) is not None and compare(value, constant)


def _constant(text: str, kind: str) -> Any:
    value = _value({kind: text}, kind, kind)
    is_date = kind != "DATE" or re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII)
    if text != _NULL and (value is None or not is_date):
        raise BadQueryError(f"'{text}' is not a value of the type {kind}")
    return value


def _value(row: Row, name: str, kind: str) -> Any:
    text = row[name]
    if text == _NULL or kind in ("DATE", "STRING"):
        return None if text == _NULL else text
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
