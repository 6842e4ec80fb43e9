"""The US Treasury's Fiscal Data API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from etl_assets.logs import plain
from etl_assets.sources import Fetched, SourceError, SourceRefusedError, Validators, Workspace, http
from etl_assets.sources.extracts import pages
from etl_assets.sources.paging import Call, Page, PagedSource, Slice, versions
from etl_assets.sources.records import parse_json

#: Bounds of a record's date: every month from the first to the last is asked for, a hundred thousand with a wrong date.
_EARLIEST, _LATEST = date(1900, 1, 1), timedelta(days=366)


@dataclass(frozen=True, kw_only=True)
class FiscalDataSource(PagedSource):
    """A table of the API, extracted month by month of its `record_date`, sorted by `sort`.

    Months that ended `look_back_days` or more before the newest date of the known extract are settled: corrections
    seldom reach them, and they are taken from the last landed file, unless the total number of rows contradicts it.
    """

    sort: str
    look_back_days: int = 400
    page_size: int = 1000

    is_silent = True

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """Extract; if the number of rows is not the table's, ask for the settled months as well."""
        fetched = super().fetch(work, known)
        if fetched is None:
            return None
        rows, total = _rows(fetched.path), self._total(fetched)
        if rows == total:
            return fetched
        if known:
            return self.fetch(work, None)
        work.pages.clear()  # there is no telling which month is wrong
        raise SourceRefusedError(
            f"{fetched.url} reports {total} rows, but its months hold {rows}: some have no record_date or were added "
            "while it was extracted. The last good extract stays."
        )

    def parts(self) -> Mapping[str, int]:
        """The table is one part."""
        return {self.path: 0}

    def request(self, part: str) -> str:
        """All rows; pages in another order are other pages."""
        return self.sort

    def state(self, part: str) -> str:
        """The newest date and the number of rows."""
        newest, page = self._end("-record_date")
        return f"{newest} {page.total}"

    def slices(self, part: str, state: str, before: str | None) -> Sequence[Slice]:
        """One slice per month from the first to the newest date."""
        first, _ = self._end("record_date")
        month, last = first.replace(day=1), date.fromisoformat(state.partition(" ")[0])
        known = date.fromisoformat(before.partition(" ")[0]) if before else date.min
        slices = []
        while month <= last:
            after = (month + timedelta(days=32)).replace(day=1)
            chosen = f"record_date:gte:{month},record_date:lt:{after}"
            parameters = {"filter": chosen, "sort": self.sort, "page[size]": str(self.page_size), "page[number]": "1"}
            is_settled = before is not None and after <= known - timedelta(days=self.look_back_days)
            slices.append(Slice(f"{month:%Y-%m}", Call(self.url(), parameters), is_settled))
            month = after
        return slices

    def read(self, call: Call, body: bytes) -> Page:
        """Read a page, and check its own count and whether another page follows."""
        document = parse_json(body)
        try:
            rows, meta, links = document["data"], document["meta"], document["links"]
            count, total, last = int(meta["count"]), int(meta["total-count"]), int(meta["total-pages"])
            if not isinstance(rows, list) or not isinstance(links, dict):
                raise TypeError("data must be a list, links an object")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            why = f"{type(error).__name__}: {error}"
            raise SourceRefusedError(f"the envelope is malformed ({why}). The last good extract stays.") from error
        if count != len(rows):
            raise SourceRefusedError(
                f"the envelope says {count} rows and holds {len(rows)}. The last good extract stays."
            )
        number = int(call.parameters["page[number]"])
        if bool(links.get("next")) != (number < last):
            raise SourceRefusedError(
                f"the envelope says {last} pages, but page {number} has {'a' if links.get('next') else 'no'} link to a "
                "next one. The last good extract stays."
            )
        following = None
        if links.get("next"):
            following = Call(call.url, {**call.parameters, "page[number]": str(number + 1)})
        return Page(rows, total, following)

    def ahead(self, first: Call, page: Page) -> Sequence[Call]:
        """Pages are numbered."""
        numbers = range(2, -(-(page.total or 0) // self.page_size) + 1)
        return [Call(first.url, {**first.parameters, "page[number]": str(number)}) for number in numbers]

    def _end(self, sort: str) -> tuple[date, Page]:
        """The date of the first row in the order `sort`, and the page that holds it."""
        call = Call(self.url(), {"sort": sort, "page[size]": "1", "page[number]": "1"})
        try:
            page = self.read(call, self.get(call) or b"")
            if not page.rows:
                raise SourceRefusedError("there are no rows. The last good extract stays.")
            found = date.fromisoformat(page.rows[0]["record_date"])
            if not _EARLIEST <= found <= datetime.now(UTC).date() + _LATEST:
                raise ValueError(f"{found} is not a plausible record_date")
        except SourceError as error:
            raise type(error)(f"{http.public(call.url)}, sorted by {sort}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise SourceRefusedError(
                f"{http.public(call.url)}, sorted by {sort}: the first row has no record_date that can be read "
                f"({plain(str(error), 200)}). The last good extract stays."
            ) from error
        return found, page

    def _total(self, fetched: Fetched) -> int:
        """The total number of rows, according to the version."""
        return int(versions(fetched.validators)[self.path].state.rpartition(" ")[2])


def _rows(extract: Path) -> int:
    return sum(len(parse_json(body)["data"]) for _, body in pages(extract))
