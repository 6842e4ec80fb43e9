"""OData, as the WHO's Global Health Observatory speaks it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from etl_assets.settings import settings
from etl_assets.sources import SourceRefusedError, Validators, http
from etl_assets.sources.paging import Call, Page, PagedSource, Slice


@dataclass(frozen=True)
class ODataSource(PagedSource):
    """Entity sets of an OData service, each with an optional `$filter`.

    `stamp` names a column that says when an entity set was published; where there is none, its first page tells, which
    suits a small set. `order` keeps the pages apart, since a service
    need not answer in the same order twice.
    """

    source: str
    live: str
    path: str
    sets: Mapping[str, str]
    order: str
    stamp: str | None = None

    def slices(self, known: Validators | None) -> Sequence[Slice]:
        """One slice per entity set; one whose stamp is the known one is taken from the last extract."""
        before = _stamps(known)
        return [
            Slice(name, self._call(name, {"$orderby": self.order, "$count": "true"}), before.get(name) == stamp)
            for name, stamp in self._stamps_now().items()
        ]

    def probe(self, known: Validators | None) -> str | None:
        """The stamps of all entity sets, if one of them is another than the known one."""
        version = json.dumps(self._stamps_now(), sort_keys=True)
        return None if known and known.etag == version else version

    def read(self, call: Call, body: bytes) -> Page:
        """A page of an entity set; its count must not change between pages."""
        document = parse_json(body)
        rows = document.get("value") if isinstance(document, dict) else None
        if not isinstance(rows, list):
            raise SourceRefusedError("the answer has no list of values. The last good extract stays.")
        following = document.get("@odata.nextLink")
        return Page(
            rows=rows,
            total=document.get("@odata.count"),
            following=_following(call, following) if following else None,
        )

    def _stamps_now(self) -> dict[str, str]:
        """What tells the version of each entity set: the newest value of the stamp's column, its rows, its filter."""
        if not self.sets:
            raise SourceRefusedError(
                f"{self.source}: nothing is switched on that could be extracted. Enable an entry in the dataset; the "
                "last good extract stays."
            )
        stamps = {}
        for name in self.sets:
            newest = {"$orderby": f"{self.stamp} desc", "$top": "1"} if self.stamp else {"$orderby": self.order}
            call = self._call(name, {**newest, "$count": "true"})
            page = self.read(call, http.get(call.url, call.parameters) or b"")
            if not page.rows:
                raise SourceRefusedError(
                    f"{name}: the filter {self.sets[name]!r} matches nothing. Correct it in the dataset, or switch the "
                    "entry off; the last good extract stays."
                )
            stamp = (
                page.rows[0].get(self.stamp)
                if self.stamp
                else hashlib.sha256(json.dumps(page.rows).encode()).hexdigest()
            )
            stamps[name] = f"{stamp} {page.total} {self.sets[name]}".strip()
        return stamps

    def _call(self, name: str, parameters: Mapping[str, str]) -> Call:
        base = settings().source_url(self.source, local=f"{self.source}/{self.path}", live=self.live)
        chosen = {"$filter": self.sets[name]} if self.sets[name] else {}
        return Call(f"{base.rstrip('/')}/{name}", {**chosen, **parameters})


def parse_json(body: bytes) -> Any:
    """A JSON answer; raises SourceRefusedError for another."""
    if not body.strip():
        raise SourceRefusedError("the answer is empty. The last good extract stays.")
    try:
        return json.loads(body)
    except ValueError as error:
        kind = "an HTML page" if body.lstrip()[:1] == b"<" else "no whole JSON"
        raise SourceRefusedError(f"the answer is {kind} ({error}). The last good extract stays.") from error


def _following(call: Call, link: str) -> Call:
    """The request for the next page: of the same entity set at the same address, whatever host the service says.

    A link may name a host that only the service itself can reach, or the one of before an extract was cut off.
    """
    return Call(call.url, dict(parse_qsl(urlsplit(link).query)))


def _stamps(known: Validators | None) -> dict[str, str]:
    try:
        found = json.loads(known.etag or "") if known else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
