"""The retail company's API, tables as pages of JSON for holders of a token; and how the company writes values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etl_assets.settings import NotConfiguredError, settings
from etl_assets.sources import SourceRefusedError, http
from etl_assets.sources.paging import Call, Page, PagedSource, Slice
from etl_assets.sources.records import parse_json

#: The company writes dates in three forms; each of them means one thing, in all of its sources.
DATES = {
    r"\d{4}-\d{2}-\d{2}": "%Y-%m-%d",
    r"\d{1,2}/\d{1,2}/\d{4}": "%d/%m/%Y",
    r"\d{1,2}-\d{1,2}-\d{4}": "%m-%d-%Y",
}
#: How the API writes a missing value.
NOTHING = ("",)


@dataclass(frozen=True, kw_only=True)
class RetailApi(PagedSource):
    """A table of the API, such as `customers`: `GET <path>?page=1&page_size=200`, `Authorization: Bearer <token>`.

    An answer is `{"data": […], "total": 1000, "page": 1, "pages": 5}`, or a plain array of all records, as in the
    recordings. The ETag of every answer is the whole table's.
    """

    source: str = "retail_api"
    live: str | None = None
    page_size: int = 200

    def parts(self) -> Mapping[str, int]:
        """The table is one part."""
        return {self.path: 0}

    def url(self) -> str:
        """The table's address; the local server has it among the other recordings of the company."""
        return f"{settings().source_url(self.source, local='retail', live=self.live).rstrip('/')}/{self.path}"

    def request(self, part: str) -> str:
        """All of it, whatever the size of the pages."""
        return "all"

    def state(self, part: str) -> str:
        """The table's ETag."""
        return http.probe(self.url(), None, self._token()) or ""

    def slices(self, part: str, state: str, before: str | None) -> Sequence[Slice]:
        """The table is one slice."""
        return [Slice(self.path, Call(self.url(), {"page": "1", "page_size": str(self.page_size)}))]

    def get(self, call: Call) -> bytes | None:
        """A page, asked for with the token."""
        return http.get(call.url, call.parameters, auth=self._token())

    def read(self, call: Call, body: bytes) -> Page:
        """A page's records; the page's number must be the one that was asked for."""
        document = parse_json(body)
        if isinstance(document, list):
            return Page(document)
        try:
            rows = document["data"]
            total, number, last = (int(document[name]) for name in ("total", "page", "pages"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            why = f"{type(error).__name__}: {error}"
            raise SourceRefusedError(f"the envelope is malformed ({why}). The last good extract stays.") from error
        if not isinstance(rows, list) or str(number) != call.parameters["page"] or number > last:
            raise SourceRefusedError(
                f"page {call.parameters['page']} was asked for, but the envelope says page {number} of {last}, or its "
                "data is not a list. The last good extract stays."
            )
        following = Call(call.url, {**call.parameters, "page": str(number + 1)})
        return Page(rows, total, following if number < last else None)

    def _token(self) -> http.Bearer:
        """The token, which is never written down; raises NotConfiguredError where there is none."""
        token = settings().retail_token
        if token is None:
            raise NotConfiguredError(
                "The retail API needs a token: set ETL_RETAIL_TOKEN. The embedded default makes one for its own source "
                "server: start it with `./dev up`."
            )
        return http.Bearer(token, "ETL_RETAIL_TOKEN")


def records(page: object) -> Sequence[dict[str, object]]:
    """The records of a page that `RetailApi.read` has checked before."""
    return page["data"] if isinstance(page, dict) else page  # pyrefly: ignore[bad-return]
