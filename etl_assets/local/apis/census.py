"""US Census: poverty by year and geography, as arrays below a header, for callers that send a key.

Here: its variables, geographies and predicates, the two names of a year, the pages about keys, and errors.
Not here: paging and sorting: it has neither, and gives rows as they were recorded.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from etl_assets.local.apis.querying import BadQueryError, parameter, read
from etl_assets.local.routes import Request, Response

_MOST_VARIABLES = 50
#: The variables that the API knows for each series, whatever was recorded of it.
_VARIABLES = {
    "saipe": {"NAME", *(f"{name}_{of}" for name in ("SAEPOVALL", "SAEPOVRTALL", "SAEMHI") for of in ("PT", "MOE"))},
    "histpov2": {"NAME", "PCTPOV", "RACE"},
}
_YEAR_NAMES = ("time", "YEAR")
_LEVELS_ABOVE: dict[str, set[str]] = {"us": set(), "state": set(), "county": {"state"}}
_KEY_PAGES = {
    "missing_key.html": ("Missing Key", "A valid key must be included with each data API request."),
    "invalid_key.html": ("Invalid Key", "You included a key with this request, however, it is not valid."),
}


@dataclass(frozen=True, eq=False)
class _Answer:
    """One recorded answer: its columns, with the year's and then those of the geography at the end."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    year: int
    geography: Sequence[str]

    def position(self, name: str) -> int | None:
        """Where the column is; the year is found both as `time` and as `YEAR`."""
        if name in self.columns:
            return self.columns.index(name)
        return self.year if name in _YEAR_NAMES else None


def census(request: Request) -> Response | None:
    """US Census under `/census/data/timeseries/poverty`; every key is valid except `bad`.

    A known variable that was not recorded for a year is null.
    """
    if request.segments[1:2] != ("data",):
        return None
    if request.method not in ("GET", "HEAD"):
        return Response(405, headers={"Allow": "GET, HEAD"})
    *path, name = request.segments[2:] or ("",)
    if not path and name in _KEY_PAGES:
        return _key_page(name)
    answers = [
        read(recording, _answer)
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
        return _table(request, answers, _VARIABLES.get(name, set()))
    except BadQueryError as error:
        return Response(400, f"error: {error}".encode(), "text/plain;charset=utf-8")


def _key_page(name: str, headers: Mapping[str, str] | None = None) -> Response:
    title, text = _KEY_PAGES[name]
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><p>{text}</p></body></html>\n"
    return Response(200, page.encode(), "text/html;charset=utf-8", headers or {})


def _answer(content: bytes) -> _Answer:
    columns, *rows = json.loads(content)
    year = max((columns.index(name) for name in _YEAR_NAMES if name in columns), default=-1)
    if year < 0:
        raise ValueError(f"a recorded Census answer has neither a column `time` nor `YEAR`: {columns}")
    return _Answer(columns, rows, year, columns[year + 1 :])


def _table(request: Request, answers: Sequence[_Answer], variables_known: Set[str]) -> Response:
    known = {*_YEAR_NAMES, *variables_known, *itertools.chain.from_iterable(answer.columns for answer in answers)}
    variables = [name.strip() for name in (parameter(request, "get") or "").split(",") if name.strip()]
    level, codes = _geography(parameter(request, "for"), "for")
    if not variables:
        raise BadQueryError("missing 'get' argument")
    if len(variables) > _MOST_VARIABLES:
        raise BadQueryError(f"{len(variables)} variables asked for, the limit is {_MOST_VARIABLES}")
    for name in variables:
        if name not in known:
            raise BadQueryError(f"unknown variable '{name}'")

    wanted = dict(_geography(part, "in") for text in request.query.get("in", []) for part in text.split())
    if level not in _LEVELS_ABOVE or not set(wanted) <= _LEVELS_ABOVE[level]:
        raise BadQueryError("unknown/unsupported geography hierarchy")
    wanted[level] = codes
    answers = [answer for answer in answers if answer.geography[-1] == level]
    predicates = [name for name in request.query if name not in ("get", "for", "in", "key")]
    for name in predicates:
        if name not in known:
            raise BadQueryError(f"unknown predicate variable: '{name}'")
        if name in _YEAR_NAMES and not re.fullmatch(r"\d{4}", parameter(request, name) or "", re.ASCII):
            raise BadQueryError(f"invalid '{name}' argument")
        wanted[name] = {parameter(request, name) or ""}

    # The year's column is called as in the request, but YEAR if it was recorded only as that: SAIPE has changed it.
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
    """A level and the codes asked for at that level (None means all): `county:*`, `state:06,48`."""
    if not text:
        raise BadQueryError(f"missing '{argument}' argument")
    level, _, codes = text.partition(":")
    return level, None if codes in ("", "*") else set(codes.split(","))
