"""OData, as the WHO's Global Health Observatory speaks it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from etl_assets.sources import SourceError, SourceRefusedError, http
from etl_assets.sources.paging import Call, Page, PagedSource, Slice
from etl_assets.sources.records import parse_json


@dataclass(frozen=True, kw_only=True)
class ODataSource(PagedSource):
    """Entity sets of an OData service, each with an optional `$filter`.

    `order` keeps pages from overlapping, since a service need not answer in the same order twice; Microsoft's OData,
    which many services are built with, takes at most five columns. `stamp` names a column that says when an entity set
    was published; without it, the first page identifies the state, which suits a small set. `freshness_days` says for
    how many days a set that was asked for is not asked for again.
    """

    sets: Mapping[str, str]
    order: str
    stamp: str | None = None
    freshness_days: Mapping[str, int] = field(default_factory=dict)

    def parts(self) -> Mapping[str, int]:
        """Every entity set is published on its own."""
        if not self.sets:
            raise SourceRefusedError(
                f"{self.source}: no entry is switched on, so nothing can be extracted. Enable one in the dataset; the "
                "last good extract stays."
            )
        return {name: self.freshness_days.get(name, 0) for name in self.sets}

    def request(self, part: str) -> str:
        """The filter."""
        return self.sets[part]

    def state(self, part: str) -> str:
        """The newest value of the stamp's column (or a digest of the first page), and the number of rows."""
        newest = {"$orderby": f"{self.stamp} desc", "$top": "1"} if self.stamp else {"$orderby": self.order}
        call = self._call(part, {**newest, "$count": "true"})
        try:
            page = self.read(call, self.get(call) or b"")
        except SourceError as error:
            raise type(error)(f"{http.public(call.url)}: {error}") from error
        if not page.rows:
            raise SourceRefusedError(
                f"{part}: the filter {self.sets[part]!r} matches nothing. Correct it in the dataset, or switch the "
                "entry off; the last good extract stays."
            )
        if self.stamp:
            return f"{page.rows[0].get(self.stamp)} {page.total}"
        rows = sorted(json.dumps(row) for row in page.rows)  # in whatever order they came
        return f"{hashlib.sha256(json.dumps(rows).encode()).hexdigest()} {page.total}"

    def slices(self, part: str, state: str, before: str | None) -> Sequence[Slice]:
        """A set is one slice, settled while its state is the known one: a publication may restate any of its years."""
        return [Slice(part, self._call(part, {"$orderby": self.order, "$count": "true"}), settled=state == before)]

    def read(self, call: Call, body: bytes) -> Page:
        """A page of an entity set; its count must not change between pages."""
        document = parse_json(body)
        rows = document.get("value") if isinstance(document, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise SourceRefusedError("the answer has no list of values. The last good extract stays.")
        following, total = document.get("@odata.nextLink"), document.get("@odata.count")
        if not isinstance(following, str | None) or not isinstance(total, int | None):
            raise SourceRefusedError("its count is not a number, or its link is not text. The last good extract stays.")
        return Page(
            rows=rows,
            total=total,
            following=_following(call, following) if following else None,
        )

    def ahead(self, first: Call, page: Page) -> Sequence[Call]:
        """The later pages by their `$skip`, if that is how the service links them."""
        if (
            page.following is None
            or page.total is None
            or page.following.parameters.get("$skip") != str(len(page.rows))
        ):
            return []
        skips = range(len(page.rows), page.total, len(page.rows))
        return [Call(first.url, {**page.following.parameters, "$skip": str(skip)}) for skip in skips]

    def _call(self, name: str, parameters: Mapping[str, str]) -> Call:
        chosen = {"$filter": self.sets[name]} if self.sets[name] else {}
        return Call(f"{self.url()}/{name}", {**chosen, **parameters})


def _following(call: Call, link: str) -> Call:
    """The request for the next page: of the same entity set at the same address, whatever host the link names.

    A link may name a host that only the service itself can reach, or an old one from before an extract was cut off.
    """
    try:
        return Call(call.url, dict(parse_qsl(urlsplit(link).query)))
    except ValueError as error:
        raise SourceRefusedError(
            f"its link to the next page is not a valid address ({error}). The last good extract stays."
        ) from error
