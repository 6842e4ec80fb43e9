"""The US Census Bureau's data API: arrays of arrays, the first of which is the header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from etl_assets.logs import plain
from etl_assets.settings import NotConfiguredError, settings
from etl_assets.sources import SourceRefusedError, http
from etl_assets.sources.paging import Call, Page, PagedSource, Slice
from etl_assets.sources.records import parse_json

_GET_KEY = "A key is free: https://api.census.gov/data/key_signup.html"
_WRONG_KEY = (
    "either it is under maintenance, or it does not accept the key. Check that ETL_CENSUS_KEY is right and has been "
    f"activated, or get another one. {_GET_KEY}"
)


@dataclass(frozen=True, kw_only=True)
class CensusSource(PagedSource):
    """A time series of the API: one request per geography and year.

    `geographies` maps a name for its slices to the `for` and `in` of each. Years before the last `look_back_years` are
    settled once they were extracted. The API gives no sign of a new version, so it is asked anew after
    `freshness_days`, and at once when something else is to be asked for than the last time.
    """

    variables: Sequence[str]
    geographies: Mapping[str, Mapping[str, str]]
    first_year: int
    look_back_years: int = 2
    freshness_days: int = 30

    def parts(self) -> Mapping[str, int]:
        """The series is one part."""
        return {self.path: self.freshness_days}

    def request(self, part: str) -> str:
        """A digest of what is asked for: settled years count only for the same variables and places."""
        places = {name: dict(place) for name, place in self.geographies.items()}
        asked = json.dumps([list(self.variables), places, self.first_year])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    def state(self, part: str) -> str:
        """Empty: the API does not tell its version. Raises NotConfiguredError without a key, before any request."""
        self._key()
        return ""

    def slices(self, part: str, state: str, before: str | None) -> Sequence[Slice]:
        """One slice per geography and year, to the current year: a year that is not out yet has no page."""
        this_year = datetime.now(UTC).year
        return [
            Slice(
                f"{name}_{year}",
                Call(self.url(), {"get": ",".join(self.variables), **geography, "time": str(year)}),
                settled=before is not None and year < this_year - self.look_back_years,
            )
            for name, geography in self.geographies.items()
            for year in range(self.first_year, this_year + 1)
        ]

    def get(self, call: Call) -> bytes | None:
        """A page, asked for with the API's key."""
        return http.get(call.url, {**call.parameters, **self._key()}, _WRONG_KEY)

    def read(self, call: Call, body: bytes) -> Page:
        """The rows below the header."""
        document = parse_json(body)
        if not isinstance(document, list) or not document or not all(isinstance(row, list) for row in document):
            raise SourceRefusedError("the answer is not an array of arrays. The last good extract stays.")
        widths = {len(row) for row in document}
        if len(widths) != 1:
            raise SourceRefusedError(
                f"its rows have different numbers of fields: {sorted(widths)}. The last good extract stays."
            )
        if len(document) == 1:  # a year that is not out yet is answered with nothing at all
            raise SourceRefusedError("the answer has a header but no rows. The last good extract stays.")
        header = [str(name) for name in document[0]]
        places = [part.partition(":")[0] for name in ("in", "for") for part in call.parameters.get(name, "").split()]
        asked = [name for name in call.parameters.get("get", "").split(",") if name]
        if missing := [name for name in (*asked, *places) if name not in header]:
            raise SourceRefusedError(
                f"the answer lacks {missing}; it has {plain(str(header), 300)}. The last good extract stays."
            )
        for number, row in enumerate(document[1:], 1):
            for name in places:  # a county without its code would be taken for its state
                if not row[header.index(name)]:
                    whose = plain(str(row[0]), 100)
                    raise SourceRefusedError(f"row {number} ({whose}) has no {name}. The last good extract stays.")
        return Page(document[1:])

    def _key(self) -> dict[str, str]:
        """The API's key, which is never written down; raises NotConfiguredError where there is none."""
        configured = settings()
        if configured.census_key is not None:
            return {"key": configured.census_key.get_secret_value()}
        if configured.sources == "local":
            return {"key": "local"}
        raise NotConfiguredError(f"The Census API needs a key: set ETL_CENSUS_KEY. {_GET_KEY}")


def rows_by_header(page: Sequence[Sequence[str | None]]) -> list[dict[str, str | None]]:
    """The rows of an answer, named by its header; the year is `time`, even if the answer calls it `YEAR`."""
    header = ["time" if name == "YEAR" and "time" not in page[0] else str(name) for name in page[0]]
    return [dict(zip(header, row, strict=True)) for row in page[1:]]
