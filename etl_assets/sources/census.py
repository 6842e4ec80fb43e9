"""The US Census Bureau's data API: arrays of arrays, the first of which is the header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from etl_assets.settings import NotConfiguredError, settings
from etl_assets.sources import SourceRefusedError, Validators
from etl_assets.sources.odata import parse_json
from etl_assets.sources.paging import Call, Page, PagedSource, Slice


@dataclass(frozen=True)
class CensusSource(PagedSource):
    """A time series of the API: one request per geography and year.

    `geographies` gives, by a name for its slices, the `for` and `in` of each. Years before the last `look_back` are
    settled once they were extracted. The API gives no sign of a new version, so it is asked anew after
    `freshness_days`, and at once when something else is asked for than the last time.
    """

    source: str
    live: str
    path: str
    variables: Sequence[str]
    geographies: Mapping[str, Mapping[str, str]]
    first_year: int
    look_back: int = 2
    freshness_days: int = 30

    def slices(self, known: Validators | None) -> Sequence[Slice]:
        """One slice per geography and year, to the current year: a year that is not out yet has no page."""
        this_year = datetime.now(UTC).year
        before = this_year - self.look_back if _parts(known)[1] == self._request() else 0
        return [
            Slice(
                f"{name}_{year}",
                Call(self._url(), {"get": ",".join(self.variables), **geography, "time": str(year)}),
                settled=year < before,
            )
            for name, geography in self.geographies.items()
            for year in range(self.first_year, this_year + 1)
        ]

    def probe(self, known: Validators | None) -> str | None:
        """The day and what is asked for, once the known extract is older than `freshness_days` or of something else."""
        self.secrets()
        now, (day, request) = datetime.now(UTC), _parts(known)
        if request == self._request() and now - datetime.fromisoformat(day) < timedelta(days=self.freshness_days):
            return None
        return f"{now.replace(hour=0, minute=0, second=0, microsecond=0).isoformat()} {self._request()}"

    def secrets(self) -> Mapping[str, str]:
        """The API's key; raises NotConfiguredError before any request where there is none."""
        configured = settings()
        if configured.census_key is not None:
            return {"key": configured.census_key.get_secret_value()}
        if configured.sources == "local":
            return {"key": "local"}
        raise NotConfiguredError(
            "The Census API wants a key: set ETL_CENSUS_KEY. It is free: https://api.census.gov/data/key_signup.html"
        )

    def read(self, call: Call, body: bytes) -> Page:
        """The rows below the header."""
        document = parse_json(body)
        if not isinstance(document, list) or not document or not all(isinstance(row, list) for row in document):
            raise SourceRefusedError("the answer is no array of arrays. The last good extract stays.")
        widths = {len(row) for row in document}
        if len(widths) != 1:
            raise SourceRefusedError(f"rows have {sorted(widths)} fields. The last good extract stays.")
        header = [str(name) for name in document[0]]
        places = [part.partition(":")[0] for name in ("in", "for") for part in call.parameters.get(name, "").split()]
        asked = [name for name in call.parameters.get("get", "").split(",") if name]
        if missing := [name for name in (*asked, *places) if name not in header]:
            raise SourceRefusedError(f"the answer has no {missing}, but {header}. The last good extract stays.")
        for number, row in enumerate(document[1:], 1):
            for name in places:  # a county without its code would be taken for its state
                if not row[header.index(name)]:
                    raise SourceRefusedError(f"row {number} ({row[0]}) has no {name}. The last good extract stays.")
        return Page(document[1:])

    def _request(self) -> str:
        """A digest of what is asked for: years that are settled are those of the same variables and places."""
        asked = json.dumps([list(self.variables), {name: dict(place) for name, place in self.geographies.items()}])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    def _url(self) -> str:
        base = settings().source_url(self.source, local=self.source, live=self.live)
        return f"{base.rstrip('/')}/{self.path}"


def _parts(known: Validators | None) -> tuple[str, str]:
    """The day and the request of the known extract; empty where there is none."""
    day, _, request = ((known and known.etag) or "").partition(" ")
    return day, request


def rows_by_header(page: Sequence[Sequence[str | None]]) -> list[dict[str, str | None]]:
    """The rows of an answer, named by its header; the year is `time`, whichever of its names the answer has."""
    header = ["time" if name == "YEAR" and "time" not in page[0] else str(name) for name in page[0]]
    return [dict(zip(header, row, strict=True)) for row in page[1:]]
