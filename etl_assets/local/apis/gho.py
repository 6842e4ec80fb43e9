"""The APIs as routes of the source server: each answers from recordings as the real one does live.

Here: WHO GHO (OData), US Treasury Fiscal Data, US Census and the retail company's: their queries, paging, envelopes
and refusals.
Not here: HTTP, and misbehaviour on demand (sources.py).

Where an API promises no order it keeps none: every request sees the rows, and rows that a sort leaves equal,
in another of a few orders. Who pages without a sort by a whole key gets rows twice and misses others.
"""

from __future__ import annotations

import csv
import hmac
import io
import itertools
import json
import operator
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from etl_assets.local.recordings import Recording, Request, Response, Route

__all__ = ["census", "gho", "retail", "treasury"]

Row = Mapping[str, Any]
Test = Callable[[Row], bool]
Value = Callable[[Row], Any]
T = TypeVar("T")

_ORDERS = 4
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "gte": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "lte": operator.le,
}


class _BadQueryError(Exception):
    """A query that the API refuses; each has its own way to say so."""


@dataclass(frozen=True, eq=False)  # compared by identity, so that what is cached for it goes with it
class _Table:
    """Recorded rows, with the type of each of their fields as the API calls it."""

    rows: Sequence[Row]
    types: Mapping[str, str]
    meta: Mapping[str, Any]

    def type_of(self, name: str) -> str:
        try:
            return self.types[name]
        except KeyError:
            raise _BadQueryError(f"there is no field '{name}'") from None


def _read(recording: Recording, parse: Callable[[bytes], T]) -> T:
    """Parse a recording, once for as long as it stays the same."""
    stat = recording.path.stat()
    return _parsed(recording, stat.st_mtime_ns, stat.st_size, parse)


@lru_cache(maxsize=32)
def _parsed(recording: Recording, mtime_ns: int, size: int, parse: Callable[[bytes], Any]) -> Any:
    return parse(recording.read())


def _in_some_order(rows: Iterable[Row], turn: int) -> list[Row]:
    shuffled = list(rows)
    random.Random(turn).shuffle(shuffled)  # noqa: S311 - repeatable is what is wanted
    return shuffled


def _sorted(rows: list[Row], keys: Sequence[tuple[Value, bool]]) -> list[Row]:
    """Sort by several keys, each ascending or descending; nulls come first in an ascending one."""
    for value, descending in reversed(keys):
        rows = sorted(rows, key=partial(_nulls_first, value), reverse=descending)
    return rows


def _nulls_first(value: Value, row: Row) -> tuple[bool, Any]:
    found = value(row)
    return (False, 0) if found is None else (True, found)


def _one(request: Request, name: str) -> str | None:
    match request.query.get(name, []):
        case []:
            return None
        case [value]:
            return value
    raise _BadQueryError(f"'{name}' is there more than once")


def _whole_number(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise _BadQueryError(f"'{text}' is no value for '{name}'")
    return int(text)


# WHO GHO -------------------------------------------------------------------------------------------------

_EDM_TYPES = {
    **dict.fromkeys(("Id", "TimeDim"), "Edm.Int32"),
    **dict.fromkeys(("NumericValue", "Low", "High"), "Edm.Double"),
    **dict.fromkeys(("Date", "TimeDimensionBegin", "TimeDimensionEnd"), "Edm.DateTimeOffset"),
}
_GHO_FIELDS = (
    *("Id", "IndicatorCode", "SpatialDimType", "SpatialDim", "ParentLocationCode", "TimeDimType"),
    *("ParentLocation", "Dim1Type", "TimeDim", "Dim1", "Dim2Type", "Dim2", "Dim3Type", "Dim3"),
    *("DataSourceDimType", "DataSourceDim", "Value", "NumericValue", "Low", "High", "Comments", "Date"),
    *("TimeDimensionValue", "TimeDimensionBegin", "TimeDimensionEnd"),
)
_GHO_OPTIONS = {"$filter", "$select", "$orderby", "$top", "$skip", "$count", "$format"}
_INDICATOR_NAMES = {
    "WHOSIS_000001": "Life expectancy at birth (years)",
    "WHOSIS_000002": "Healthy life expectancy (HALE) at birth (years)",
    "WHOSIS_000007": "Healthy life expectancy (HALE) at age 60 (years)",
    "WHOSIS_000015": "Life expectancy at age 60 (years)",
    "MDG_0000000001": "Infant mortality rate (probability of dying between birth and age 1 per 1000 live births)",
    "MDG_0000000007": "Under-five mortality rate (probability of dying by age 5 per 1000 live births)",
}


def gho(page_size: int = 1000) -> Route:
    """WHO GHO under `/who_gho/api`; an answer has at most `page_size` rows, and a link to the next ones.

    A request can ask for smaller pages with the header `Prefer: odata.maxpagesize=N`.
    """
    turns = itertools.cycle(range(_ORDERS))

    def answer(request: Request) -> Response | None:
        if request.segments[1:2] != ("api",):
            return None
        if request.method not in ("GET", "HEAD"):
            return Response(405, headers={"Allow": "GET, HEAD"})
        name, table = "/".join(request.segments[2:]), _gho_table(request)
        if table is None:
            return Response(404)
        try:
            return _gho_page(request, name, table, next(turns), page_size)
        except _BadQueryError as error:
            message = f"The query specified in the URI is not valid: {error}."
            return _gho_response({"error": {"code": "", "message": message}}, 400)

    return answer


def _gho_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    content_type = "application/json; odata.metadata=minimal; odata.streaming=true"
    return Response(status, body, content_type, {"OData-Version": "4.0", **(headers or {})})


def _gho_table(request: Request) -> _Table | None:
    recordings = {
        name.removesuffix(".json"): recording
        for name, recording in request.recordings.latest("who_gho").items()
        if re.fullmatch(r"\w+\.json", name)
    }
    match request.segments[2:]:
        case ("Indicator",):
            return _listing(
                {"IndicatorCode": code, "IndicatorName": _INDICATOR_NAMES.get(code, code), "Language": "EN"}
                for code in sorted(recordings)
            )
        case ("DIMENSION", "COUNTRY", "DimensionValues"):
            return _listing(_countries(_read(recording, _indicator) for recording in recordings.values()))
        case (code,) if code in recordings:
            return _read(recordings[code], _indicator)
    return None


def _indicator(content: bytes) -> _Table:
    rows: list[Row] = json.loads(content)["value"]
    names = dict.fromkeys(itertools.chain(_GHO_FIELDS, *rows))
    return _Table(rows, {name: _EDM_TYPES.get(name, "Edm.String") for name in names}, {})


def _listing(rows: Iterable[Row]) -> _Table:
    listed = list(rows)
    return _Table(listed, dict.fromkeys(itertools.chain.from_iterable(listed), "Edm.String"), {})


def _countries(tables: Iterable[_Table]) -> list[Row]:
    parents: dict[str, tuple[str | None, str | None]] = {}
    for row in itertools.chain.from_iterable(table.rows for table in tables):
        _, title = parents.get(row["SpatialDim"], (None, None))
        if (
            row["SpatialDimType"] == "COUNTRY" and row["SpatialDim"] and title is None
        ):  # older answers have the code only
            parents[row["SpatialDim"]] = row.get("ParentLocationCode"), row.get("ParentLocation")
    return [
        {
            "Code": code,
            "Title": _COUNTRY_NAMES.get(code, code),
            "ParentDimension": "REGION",
            "ParentCode": parent,
            "ParentTitle": title,
        }
        for code, (parent, title) in sorted(parents.items())
    ]


def _gho_page(request: Request, name: str, table: _Table, turn: int, page_size: int) -> Response:
    if unknown := [name for name in request.query if name.startswith("$") and name not in _GHO_OPTIONS]:
        raise _BadQueryError(f"the query option '{unknown[0]}' is not supported")
    rows = _gho_rows(table, _one(request, "$filter"), _one(request, "$orderby"), turn)
    skip = _whole_number(_one(request, "$skip"), "$skip") or 0
    top = _whole_number(_one(request, "$top"), "$top")
    count = _one(request, "$count")
    if count not in (None, "true", "false"):
        raise _BadQueryError(f"'{count}' is no value for '$count'")
    headers = {}
    if preferred := re.search(r"(?:odata\.)?maxpagesize=(\d+)", request.headers.get("prefer", "")):
        page_size = max(1, min(page_size, int(preferred[1])))
        headers["Preference-Applied"] = f"odata.maxpagesize={page_size}"

    window = rows[skip:] if top is None else rows[skip : skip + top]
    page = window[:page_size]
    context = f"https://ghoapi.azureedge.net/api/$metadata#{name}"
    if fields := _one(request, "$select"):
        chosen = [field.strip() for field in fields.split(",")]
        for field in chosen:
            table.type_of(field)
        page = [{field: row.get(field) for field in chosen} for row in page]
        context += f"({','.join(chosen)})"

    content: dict[str, Any] = {"@odata.context": context}
    if count == "true":
        content["@odata.count"] = len(rows)
    content["value"] = page
    if len(window) > page_size:
        following = {name: values[0] for name, values in request.query.items()} | {"$skip": str(skip + page_size)}
        if top is not None:
            following["$top"] = str(top - page_size)
        query = urlencode(following, quote_via=quote, safe="$,")
        content["@odata.nextLink"] = f"http://{request.headers.get('host', '')}{request.path}?{query}"
    return _gho_response(content, headers=headers)


@lru_cache(maxsize=64)
def _gho_rows(table: _Table, condition: str | None, orderby: str | None, turn: int) -> list[Row]:
    test = _Filter(condition, table).test if condition else lambda row: True
    keys = []
    for item in orderby.split(",") if orderby else ():
        match item.split():
            case [name] | [name, "asc"]:
                keys.append((_typed(name, table.type_of(name)), False))
            case [name, "desc"]:
                keys.append((_typed(name, table.type_of(name)), True))
            case _:
                raise _BadQueryError(f"'{item.strip()}' is nothing to order by")
    return _sorted(_in_some_order(filter(test, table.rows), turn), keys)


def _typed(name: str, edm_type: str) -> Value:
    def moment(row: Row) -> datetime | None:
        found = datetime.fromisoformat(row[name]) if row.get(name) else None
        return found if found is None or found.tzinfo else found.replace(tzinfo=UTC)

    return moment if edm_type == "Edm.DateTimeOffset" else lambda row: row.get(name)


_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')
      | (?P<moment>\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|[+-]\d\d:\d\d))?)
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>[(),]))""",
    re.VERBOSE | re.ASCII,
)


class _Filter:
    """What `$filter` says, as a test of a row: comparisons, `in`, `and`, `or`, `not`, `date()`, `contains()`."""

    def __init__(self, condition: str, table: _Table) -> None:
        self._table = table
        self._tokens: list[tuple[str, str]] = []
        position, condition = 0, condition.strip()
        while position < len(condition):
            found = _TOKEN.match(condition, position)
            if found is None:
                raise _BadQueryError(f"syntax error at position {position} in '{condition}'")
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
            raise _BadQueryError(f"'{token}' was expected in place of '{self._tokens[0][1]}'")

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
        if name not in ("eq", "ne", "gt", "ge", "lt", "le"):
            raise _BadQueryError(f"'{name}' is no operator")
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
            raise _BadQueryError(f"'{text}' is no date") from None
        if constant is not None or text == "null":
            return edm_type, lambda row: constant
        if text == "date" and self._accept("("):
            edm_type, value = self._operand()
            self._expect(")")
            if edm_type != "Edm.DateTimeOffset":
                raise _BadQueryError(f"date() of a value of the type '{edm_type}'")
            return "Edm.Date", lambda row: (moment := value(row)) and moment.date()
        if kind != "word":
            raise _BadQueryError(f"a field or a value was expected in place of '{text}'")
        edm_type = self._table.type_of(text)
        return edm_type, _typed(text, edm_type)


def _same_type(left: tuple[str, Value], right: tuple[str, Value], name: str) -> None:
    numbers = {"Edm.Int32", "Edm.Double"}
    if not (left[0] == right[0] or "null" in (left[0], right[0]) or {left[0], right[0]} <= numbers):
        raise _BadQueryError(f"'{name}' cannot be used between the types '{left[0]}' and '{right[0]}'")


def _compare(left: tuple[str, Value], name: str, right: tuple[str, Value]) -> Test:
    _same_type(left, right, name)
    compare = _COMPARISONS[name]
    if name in ("eq", "ne"):
        return lambda row: compare(left[1](row), right[1](row))

    def test(row: Row) -> bool:
        a, b = left[1](row), right[1](row)
        return a is not None and b is not None and compare(a, b)

    return test


# US Treasury Fiscal Data ---------------------------------------------------------------------------------

_TREASURY_PATH = ("services", "api", "fiscal_service", "v2", "accounting", "od")
_TREASURY_PARAMETERS = ("fields", "filter", "sort", "format", "page[number]", "page[size]")
_LARGEST_PAGE = 10_000
_NULL = "null"


def treasury() -> Route:
    """US Treasury Fiscal Data under `/treasury/services/api/fiscal_service/v2/accounting/od`."""
    turns = itertools.cycle(range(_ORDERS))

    def answer(request: Request) -> Response | None:
        if request.segments[1:2] != ("services",):
            return None
        if request.method != "GET":
            return _treasury_error(405, "Method Not Allowed", "only GET requests are answered", {"Allow": "GET"})
        *path, name = request.segments[1:]
        recording = request.recordings.latest("treasury").get(f"{name}.json")
        if tuple(path) != _TREASURY_PATH or recording is None:
            return _treasury_error(404, "Not Found", f"there is no endpoint {request.path}")
        try:
            return _treasury_page(request, _read(recording, _dataset), next(turns))
        except _BadQueryError as error:
            return _treasury_error(400, "Invalid Query Param", f"Invalid query parameter: {error}.")

    return answer


def _treasury_error(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps({"error": error, "message": message}).encode()
    return Response(status, body, "application/json", headers or {})


def _dataset(content: bytes) -> _Table:
    recorded = json.loads(content)
    meta = {name: recorded[name] for name in ("labels", "dataTypes", "dataFormats")}
    return _Table(recorded["data"], meta["dataTypes"], meta)


def _treasury_page(request: Request, table: _Table, turn: int) -> Response:
    if unknown := [name for name in request.query if name not in _TREASURY_PARAMETERS]:
        raise _BadQueryError(f"there is no parameter '{unknown[0]}'")
    rows = _treasury_rows(table, _one(request, "filter"), _one(request, "sort"), turn)
    fields = (_one(request, "fields") or ",".join(table.types)).split(",")
    for field in fields:
        table.type_of(field)
    number, size = (
        _whole_number(_one(request, name) or default, name) or 0
        for name, default in (("page[number]", "1"), ("page[size]", "100"))
    )
    if not 1 <= size <= _LARGEST_PAGE:
        raise _BadQueryError(f"'page[size]' is {size}, and can be from 1 to {_LARGEST_PAGE}")
    pages = -(-len(rows) // size)
    if not 1 <= number <= max(pages, 1):
        raise _BadQueryError(f"'page[number]' is {number}, and there are {pages} pages")
    page = [{field: row[field] for field in fields} for row in rows[(number - 1) * size : number * size]]

    form = _one(request, "format") or "json"
    if form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fields)
        writer.writeheader()
        writer.writerows(page)
        return Response(200, text.getvalue().encode(), "text/csv;charset=UTF-8")
    if form != "json":
        raise _BadQueryError(f"'format' is '{form}', and can be json or csv here")

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
def _treasury_rows(table: _Table, conditions: str | None, sort: str | None, turn: int) -> list[Row]:
    # A comma between parentheses is one of a list of values.
    tests = [_treasury_test(condition, table) for condition in re.split(r",(?![^(]*\))", conditions or "") if condition]
    # By the first field, where nothing else is asked for; who needs more says so.
    keys = []
    for item in (sort or next(iter(table.types))).split(","):
        name = item.removeprefix("-")
        keys.append((partial(_treasury_value, name=name, kind=table.type_of(name)), item != name))
    return _sorted(_in_some_order((row for row in table.rows if all(test(row) for test in tests)), turn), keys)


def _treasury_test(condition: str, table: _Table) -> Test:
    name, _, rest = condition.partition(":")
    comparison, _, text = rest.partition(":")
    kind = table.type_of(name)
    if comparison not in ("lt", "lte", "gt", "gte", "eq", "in") or not text:
        raise _BadQueryError(f"'{condition}' is no filter of the form field:operator:value")
    if comparison == "in":
        if not (text.startswith("(") and text.endswith(")")):
            raise _BadQueryError(f"'{condition}' has no list of the form (a,b)")
        values = [_treasury_constant(value, kind) for value in text[1:-1].split(",")]
        return lambda row: _treasury_value(row, name, kind) in values
    constant, compare = _treasury_constant(text, kind), _COMPARISONS[comparison]
    if comparison == "eq":
        return lambda row: _treasury_value(row, name, kind) == constant
    return lambda row: (value := _treasury_value(row, name, kind)) is not None and compare(value, constant)


def _treasury_constant(text: str, kind: str) -> Any:
    value = _treasury_value({kind: text}, kind, kind)
    is_date = kind != "DATE" or re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII)
    if text != _NULL and (value is None or not is_date):
        raise _BadQueryError(f"'{text}' is no value of the type {kind}")
    return value


def _treasury_value(row: Row, name: str, kind: str) -> Any:
    text = row[name]
    if text == _NULL or kind in ("DATE", "STRING"):
        return None if text == _NULL else text
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


# US Census -----------------------------------------------------------------------------------------------

_MOST_VARIABLES = 50
_YEAR_NAMES = ("time", "YEAR")
_LEVELS_ABOVE: dict[str, set[str]] = {"us": set(), "state": set(), "county": {"state"}}
_KEY_PAGES = {
    "missing_key.html": ("Missing Key", "A valid key must be included with each data API request."),
    "invalid_key.html": ("Invalid Key", "You included a key with this request, however, it is not valid."),
}


@dataclass(frozen=True, eq=False)
class _Answer:
    """One recorded answer: its columns, of which the year's and those of the geography come last."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    year: int
    geography: Sequence[str]

    def position(self, name: str) -> int | None:
        """Where the column is; the year can be called both `time` and `YEAR`."""
        if name in self.columns:
            return self.columns.index(name)
        return self.year if name in _YEAR_NAMES else None


def census(request: Request) -> Response | None:
    """US Census under `/census/data/timeseries/poverty`; every key is good but `bad`.

    A variable that is known, and is not in what was recorded of a year, is null.
    """
    if request.segments[1:2] != ("data",):
        return None
    if request.method not in ("GET", "HEAD"):
        return Response(405, headers={"Allow": "GET, HEAD"})
    *path, name = request.segments[2:] or ("",)
    if not path and name in _KEY_PAGES:
        return _key_page(name)
    answers = [
        _read(recording, _census_answer)
        for file, recording in request.recordings.latest("census").items()
        if file.startswith(f"{name}/") and file.endswith(".json")
    ]
    if path != ["timeseries", "poverty"] or not answers:
        return Response(404, b"error: unknown dataset\n")
    match request.query.get("key", [""])[0]:
        case "":
            return Response(302, headers={"Location": f"/{request.segments[0]}/data/missing_key.html"})
        case "bad":
            return _key_page("invalid_key.html", {"X-DataWebAPI-KeyError": "1"})
    try:
        return _census_table(request, answers)
    except _BadQueryError as error:
        return Response(400, f"error: {error}".encode(), "text/plain;charset=utf-8")


def _key_page(name: str, headers: Mapping[str, str] | None = None) -> Response:
    title, text = _KEY_PAGES[name]
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><p>{text}</p></body></html>\n"
    return Response(200, page.encode(), "text/html;charset=utf-8", headers or {})


def _census_answer(content: bytes) -> _Answer:
    columns, *rows = json.loads(content)
    year = max((columns.index(name) for name in _YEAR_NAMES if name in columns), default=-1)
    if year < 0:
        raise ValueError(f"a recorded Census answer has neither a column `time` nor `YEAR`: {columns}")
    return _Answer(columns, rows, year, columns[year + 1 :])


def _census_table(request: Request, answers: Sequence[_Answer]) -> Response:
    known = {*_YEAR_NAMES, *itertools.chain.from_iterable(answer.columns for answer in answers)}
    variables = [name.strip() for name in (_one(request, "get") or "").split(",") if name.strip()]
    level, codes = _geography(_one(request, "for"), "for")
    if not variables:
        raise _BadQueryError("missing 'get' argument")
    if len(variables) > _MOST_VARIABLES:
        raise _BadQueryError(f"{len(variables)} variables asked for, the limit is {_MOST_VARIABLES}")
    for name in variables:
        if name not in known:
            raise _BadQueryError(f"unknown variable '{name}'")

    wanted = dict(_geography(part, "in") for text in request.query.get("in", []) for part in text.split())
    if level not in _LEVELS_ABOVE or not set(wanted) <= _LEVELS_ABOVE[level]:
        raise _BadQueryError("unknown/unsupported geography hierarchy")
    wanted[level] = codes
    answers = [answer for answer in answers if answer.geography[-1] == level]
    predicates = [name for name in request.query if name not in ("get", "for", "in", "key")]
    for name in predicates:
        if name not in known:
            raise _BadQueryError(f"unknown predicate variable: '{name}'")
        if name in _YEAR_NAMES and not re.fullmatch(r"\d{4}", _one(request, name) or "", re.ASCII):
            raise _BadQueryError(f"invalid '{name}' argument")
        wanted[name] = {_one(request, name) or ""}

    # The year's column has the name it was recorded under where that is YEAR alone: SAIPE has flipped.
    year_name = next((name for name in predicates if name in _YEAR_NAMES), "time")
    header: list[str] = []
    found = []
    for answer in answers:
        tests = [(answer.position(name), values) for name, values in wanted.items() if values is not None]
        rows = [row for row in answer.rows if all(at is not None and row[at] in values for at, values in tests)]
        if rows and not header:
            year_name = year_name if "time" in answer.columns else "YEAR"
            others = (name for name in predicates if name not in _YEAR_NAMES)
            header = list(dict.fromkeys([*variables, year_name, *others, *answer.geography]))
        order = [answer.position(name) for name in header]
        found += [[None if at is None else row[at] for at in order] for row in rows]
    if not found:
        return Response(204)
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in (header, *found))
    return Response(200, ("[" + ",\n".join(lines) + "]").encode(), "application/json;charset=utf-8")


def _geography(text: str | None, argument: str) -> tuple[str, set[str] | None]:
    """A level and the codes asked for at it, None being all: `county:*`, `state:06,48`."""
    if not text:
        raise _BadQueryError(f"missing '{argument}' argument")
    level, _, codes = text.partition(":")
    return level, None if codes in ("", "*") else set(codes.split(","))


# The retail company --------------------------------------------------------------------------------------

_RETAIL_TABLES = {"customers": "customer_data.json", "exchange_rates": "exchange_rates.json"}
_LARGEST_RETAIL_PAGE = 500


def retail(request: Request) -> Response | None:
    """The retail company's API under `/retail`, for who sends `Authorization: Bearer <token>`; 401 for any other.

    `GET /retail/customers` and `/retail/exchange_rates` answer with a page of the recorded array:
    `{"data": […], "total": 1000, "page": 2, "pages": 5}`. `page` counts from 1, `page_size` is 100 unless asked for, at
    most 500. Every answer carries the ETag of the whole table, and is 304 for who has that.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not request.token or not hmac.compare_digest(token, request.token):
        return _retail_error(401, "a valid bearer token is required", {"WWW-Authenticate": "Bearer"})
    if request.method not in ("GET", "HEAD"):
        return _retail_error(405, "only GET and HEAD", {"Allow": "GET, HEAD"})
    file = _RETAIL_TABLES.get("/".join(request.segments[1:]), "")
    recording = request.recordings.find("retail", file)
    if recording is None:
        return _retail_error(404, f"there is no table {request.path}")
    headers = {"ETag": recording.etag}
    if request.headers.get("if-none-match") == recording.etag:
        return Response(304, headers=headers)
    texts = _read(recording, _record_texts)
    try:
        number = _whole_number(_one(request, "page"), "page") or 1
        size = _whole_number(_one(request, "page_size"), "page_size") or 100
        pages = max(-(-len(texts) // size), 1)
        if size > _LARGEST_RETAIL_PAGE or number > pages:
            raise _BadQueryError(f"page {number} of {pages}, {size} records each")
    except _BadQueryError as error:
        return _retail_error(400, f"bad request: {error}")
    data = ",".join(texts[(number - 1) * size : number * size])
    body = f'{{"data":[{data}],"total":{len(texts)},"page":{number},"pages":{pages}}}'
    return Response(200, body.encode(), "application/json", headers)


def _retail_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps({"error": message}).encode(), "application/json", headers or {})


def _record_texts(content: bytes) -> list[str]:
    return [json.dumps(row, ensure_ascii=False) for row in json.loads(content)]


# Names ---------------------------------------------------------------------------------------------------

_COUNTRIES = """
ABW Aruba|AFG Afghanistan|AGO Angola|AIA Anguilla|ALB Albania|AND Andorra|ARE United Arab Emirates|ARG Argentina
ARM Armenia|ASM American Samoa|ATG Antigua and Barbuda|AUS Australia|AUT Austria|AZE Azerbaijan|BDI Burundi|BEL Belgium
BEN Benin|BFA Burkina Faso|BGD Bangladesh|BGR Bulgaria|BHR Bahrain|BHS Bahamas|BIH Bosnia and Herzegovina|BLR Belarus
BLZ Belize|BMU Bermuda|BOL Bolivia (Plurinational State of)|BRA Brazil|BRB Barbados|BRN Brunei Darussalam|BTN Bhutan
BWA Botswana|CAF Central African Republic|CAN Canada|CHE Switzerland|CHL Chile|CHN China|CIV Côte d'Ivoire|CMR Cameroon
COD Democratic Republic of the Congo|COG Congo|COK Cook Islands|COL Colombia|COM Comoros|CPV Cabo Verde|CRI Costa Rica
CUB Cuba|CYM Cayman Islands|CYP Cyprus|CZE Czechia|DEU Germany|DJI Djibouti|DMA Dominica|DNK Denmark
DOM Dominican Republic|DZA Algeria|ECU Ecuador|EGY Egypt|ERI Eritrea|ESP Spain|EST Estonia|ETH Ethiopia|FIN Finland
FJI Fiji|FRA France|FRO Faroe Islands|FSM Micronesia (Federated States of)|GAB Gabon
GBR United Kingdom of Great Britain and Northern Ireland|GEO Georgia|GHA Ghana|GIN Guinea|GMB Gambia|GNB Guinea-Bissau
GNQ Equatorial Guinea|GRC Greece|GRD Grenada|GRL Greenland|GTM Guatemala|GUM Guam|GUY Guyana|HKG Hong Kong|HND Honduras
HRV Croatia|HTI Haiti|HUN Hungary|IDN Indonesia|IND India|IRL Ireland|IRN Iran (Islamic Republic of)|IRQ Iraq
ISL Iceland|ISR Israel|ITA Italy|JAM Jamaica|JOR Jordan|JPN Japan|KAZ Kazakhstan|KEN Kenya|KGZ Kyrgyzstan|KHM Cambodia
KIR Kiribati|KNA Saint Kitts and Nevis|KOR Republic of Korea|KWT Kuwait|LAO Lao People's Democratic Republic
LBN Lebanon|LBR Liberia|LBY Libya|LCA Saint Lucia|LIE Liechtenstein|LKA Sri Lanka|LSO Lesotho|LTU Lithuania
LUX Luxembourg|LVA Latvia|MAC Macao|MAR Morocco|MCO Monaco|MDA Republic of Moldova|MDG Madagascar|MDV Maldives
MEX Mexico|MHL Marshall Islands|MKD North Macedonia|MLI Mali|MLT Malta|MMR Myanmar|MNE Montenegro|MNG Mongolia
MNP Northern Mariana Islands|MOZ Mozambique|MRT Mauritania|MSR Montserrat|MUS Mauritius|MWI Malawi|MYS Malaysia
NAM Namibia|NCL New Caledonia|NER Niger|NGA Nigeria|NIC Nicaragua|NIU Niue|NLD Netherlands (Kingdom of the)|NOR Norway
NPL Nepal|NRU Nauru|NZL New Zealand|OMN Oman|PAK Pakistan|PAN Panama|PER Peru|PHL Philippines|PLW Palau
PNG Papua New Guinea|POL Poland|PRI Puerto Rico|PRK Democratic People's Republic of Korea|PRT Portugal|PRY Paraguay
PSE occupied Palestinian territory, including east Jerusalem|PYF French Polynesia|QAT Qatar|ROU Romania
RUS Russian Federation|RWA Rwanda|SAU Saudi Arabia|SDN Sudan|SEN Senegal|SGP Singapore|SLB Solomon Islands
SLE Sierra Leone|SLV El Salvador|SMR San Marino|SOM Somalia|SRB Serbia|SSD South Sudan|STP Sao Tome and Principe
SUR Suriname|SVK Slovakia|SVN Slovenia|SWE Sweden|SWZ Eswatini|SYC Seychelles|SYR Syrian Arab Republic
TCA Turks and Caicos Islands|TCD Chad|TGO Togo|THA Thailand|TJK Tajikistan|TKL Tokelau|TKM Turkmenistan|TLS Timor-Leste
TON Tonga|TTO Trinidad and Tobago|TUN Tunisia|TUR Türkiye|TUV Tuvalu|TZA United Republic of Tanzania|UGA Uganda
UKR Ukraine|URY Uruguay|USA United States of America|UZB Uzbekistan|VCT Saint Vincent and the Grenadines
VEN Venezuela (Bolivarian Republic of)|VGB British Virgin Islands|VIR United States Virgin Islands|VNM Viet Nam
VUT Vanuatu|WSM Samoa|XKX Kosovo|YEM Yemen|ZAF South Africa|ZMB Zambia|ZWE Zimbabwe
"""
_COUNTRY_NAMES = {entry[:3]: entry[4:] for line in _COUNTRIES.split("\n") for entry in line.split("|") if entry}
