"""Paged APIs: an extract is landed whole or not at all, and resumes where it was cut off.

An extract has parts that are published on their own (an indicator, a table), a part is cut into slices (a month, a
year), and each slice into the pages that the API gives. Every page is kept as soon as it arrives; an extract that was
killed resumes with the pages that it lacks. If the source changes between two pages of a slice, that slice starts anew.
When all slices are whole (the pages, the rows and the source's own counts agree), their pages become one file, exactly
as received: a zip of one gzip file per page.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from etl_assets.settings import settings
from etl_assets.sources import Fetched, SourceError, SourceRefusedError, Validators, Workspace, http
from etl_assets.sources.extracts import PACKED, by_slice

_ATTEMPTS = 3
#: More pages than any source has: a count that means more is wrong.
_MOST_PAGES = 100_000
#: A fixed date for the zip's entries: equal pages make an equal file.
_EPOCH = (1980, 1, 1, 0, 0, 0)
#: Twice as fast as the default and a third larger (measured).
_COMPRESSION = 1


@dataclass(frozen=True)
class Call:
    """A request for a page, without secrets."""

    url: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What a page says: its rows, how many there are in all, and where the next page is."""

    rows: Sequence[Any]
    total: int | None = None
    following: Call | None = None


@dataclass(frozen=True)
class Slice:
    """A piece of an extract that is complete or not on its own.

    A settled slice no longer changes at the source: it is taken from the last landed file.
    """

    name: str
    first: Call
    settled: bool = False


class Version(NamedTuple):
    """What is known about a part: the day on which it was asked for, where and for what, and the state it was in.

    `recordings` are those that the local server showed; empty for another service.
    """

    day: str
    service: str
    recordings: str
    request: str
    state: str

    @property
    def asked(self) -> tuple[str, str, str]:
        """All that the rows of a state depend on: an extract of which it differs is of something else."""
        return self.service, self.recordings, self.request


Versions = Mapping[str, Version]


class _ChangedError(Exception):
    """The source changed between two pages of a slice."""


class _DisagreeError(Exception):
    """The pages of a slice do not agree, though each is good in itself."""


@dataclass(frozen=True)
class _Kept:
    """The packed pages of a slice that are already there; `names` are those of the whole extract, listed once."""

    work: Workspace
    prefix: str
    names: set[str]

    def get(self, number: int) -> bytes | None:
        name = self._name(number)
        return self.work.pages[name] if name in self.names else None

    def keep(self, number: int, packed: bytes) -> None:
        self.work.pages[self._name(number)] = packed
        self.names.add(self._name(number))

    def forget(self) -> None:
        for name in [name for name in list(self.names) if name.startswith(self.prefix)]:  # other threads add to them
            self.names.discard(name)
            del self.work.pages[name]

    def _name(self, number: int) -> str:
        return f"{self.prefix}{number:05d}"


@dataclass(frozen=True)
class _Got:
    """A page that has arrived: its bytes, packed, and what the next ones are compared with."""

    packed: bytes
    rows: int
    total: int | None
    following: Call | None
    ends: str
    ahead: Sequence[Call]


@dataclass(frozen=True, kw_only=True)
class PagedSource(ABC):
    """A source that is extracted page by page; a subclass says what the slices are and how a page is read.

    It has a name, `source` (`ETL_<SOURCE>_URL` is its address), a public address, `live`, if there is one, and the
    `path` that follows either.
    """

    source: str
    live: str | None
    path: str

    suffix = ".zip"
    #: Whether a correction may leave the state as it is: what can have changed is then extracted anew each day.
    is_silent = False

    @abstractmethod
    def parts(self) -> Mapping[str, int]:
        """The parts that are published on their own, with the days for which each is not asked for again.

        0: it is asked every time.
        """

    def url(self) -> str:
        """The address as configured now: what was extracted from another one counts as another source's."""
        base = settings().source_url(self.source, local=self.source, live=self.live)
        return f"{base.rstrip('/')}/{self.path}"

    @abstractmethod
    def request(self, part: str) -> str:
        """What is asked for of a part, as text: another request is another version."""

    @abstractmethod
    def state(self, part: str) -> str:
        """What the source says now about a part's version; empty if it says nothing."""

    @abstractmethod
    def slices(self, part: str, state: str, before: str | None) -> Sequence[Slice]:
        """The slices to extract of a part, in the order in which they are put together.

        `before` is the part's state in the last landed file; None if that has no extract of the same request.
        """

    @abstractmethod
    def read(self, call: Call, body: bytes) -> Page:
        """Read a page; raises SourceRefusedError for one that is not what it says."""

    def ahead(self, first: Call, page: Page) -> Sequence[Call]:
        """The calls for all pages after the first, if it reveals them; else each page reveals the next."""
        return []

    def get(self, call: Call) -> bytes | None:
        """The bytes of a page; None if there is nothing yet."""
        return http.get(call.url, call.parameters)

    def probe(self, known: Validators | None) -> str | None:
        """The version to land, or None if the source shows the known one.

        A part that was asked for within its days is not asked for again. When they are over, it is landed once more
        even if it is the same: that records when it was asked for last.
        """
        before = versions(known)
        now = self._now(before)
        return None if now == before else json.dumps(now, sort_keys=True)

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """Extract every slice; None if the version is the known one.

        Pages are kept under their version: those of an extract that was cut off before the source changed are not
        reused, nor are those of one that was begun before yesterday.
        """
        before = versions(known)
        now = self._now(before)
        if now == before:
            return None
        with work.previous() as last:
            landed = by_slice(last)
        shown = now
        for _ in range(_ATTEMPTS):
            path, url = self._extract_all(work, now, before, landed)
            again = {
                part: version if version == before.get(part) else version._replace(state=self.state(part))
                for part, version in now.items()
            }
            if again == now:
                return Fetched(path, http.public(url), Validators(etag=json.dumps(now, sort_keys=True)))
            shown, now = now, again
        raise SourceRefusedError(
            f"The source changed while it was extracted, {_ATTEMPTS} times in a row (from {_states(shown)} to "
            f"{_states(now)}). Run again when the publisher has finished; the last good extract stays."
        )

    def _now(self, before: Versions) -> dict[str, Version]:
        """The version of each part: the one that the source states, or the known one if it is recent enough."""
        today, found = datetime.now(UTC).date(), {}
        # Recordings have a version of their own: other ones are noticed at once. No API says as much.
        service, recordings = http.service(self.url()), settings().local_version(self.source)
        for part, days in self.parts().items():
            was, asked = before.get(part), (service, recordings, self.request(part))
            since = today - date.fromisoformat(was.day) if was else timedelta(0)
            # A day ahead is of a clock that was set back since.
            if was and was.asked == asked and timedelta(0) <= since < timedelta(days=days):
                found[part] = was
                continue
            now = Version(str(today), *asked, self.state(part))
            is_same = was is not None and now[1:] == was[1:] and not days and not self.is_silent
            found[part] = was if was and is_same else now
        return found

    def _extract_all(
        self, work: Workspace, now: Versions, before: Versions, landed: Mapping[str, list[bytes]]
    ) -> tuple[Path, str]:
        """Every slice, put together in one file; and the address of the first."""
        wanted: list[tuple[Slice, _Kept, Mapping[str, list[bytes]]]] = []
        kept_under, names = _kept_under(work, now)
        for part, version in now.items():
            was = before.get(part)
            same = was if was and was.asked == version.asked else None
            # Without a known version, the landed pages still tell whether the source has lost a slice.
            there = landed if same or was is None else {}
            for piece in self.slices(part, version.state, same.state if same else None):
                wanted.append((piece, _Kept(work, f"{kept_under}/{piece.name}/", names), there))
        url = wanted[0][0].first.url
        with ThreadPoolExecutor(http.CONCURRENCY, thread_name_prefix="extract") as pool:
            found = list(pool.map(lambda one: self._slice(*one), wanted))
        if not any(found):
            where = http.public(url)
            raise SourceRefusedError(f"{where} has no data for what the dataset asks for. The last good extract stays.")
        path = work.folder / f"extract{self.suffix}"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for (piece, _, _), packed_pages in zip(wanted, found, strict=True):
                for number, packed in enumerate(packed_pages, 1):
                    archive.writestr(zipfile.ZipInfo(f"{piece.name}/{number:05d}{PACKED}", _EPOCH), packed)
        return path, url

    def _slice(self, piece: Slice, kept: _Kept, landed: Mapping[str, list[bytes]]) -> list[bytes]:
        if piece.settled and piece.name in landed:
            return landed[piece.name]
        for _ in range(_ATTEMPTS):
            try:
                found = self._extract(piece, kept)
                if not found and landed.get(piece.name):
                    raise SourceRefusedError(
                        f"{piece.name}: the source no longer has any of it, but had {len(landed[piece.name])} pages "
                        "when it was landed. The last good extract stays; if that is right, stop asking for it."
                    )
                return found
            except _ChangedError:
                kept.forget()
            except _DisagreeError as error:  # there is no telling which page is wrong
                kept.forget()
                raise SourceRefusedError(f"{piece.name}{error}. The last good extract stays.") from None
        raise SourceRefusedError(
            f"{piece.name}: the source changed between two pages, {_ATTEMPTS} times in a row. Run again when the "
            "publisher has finished; the last good extract stays."
        )

    def _extract(self, piece: Slice, kept: _Kept) -> list[bytes]:
        """All pages of a slice, those that are already there and those still to be fetched."""
        first = self._page(piece, kept, 1, piece.first)
        if first is None:
            return []  # not published yet
        got, seen = [first], {first.ends: 1}
        with closing(self._rest(piece, kept, first)) as rest:
            for number, page in enumerate(rest, 2):
                if (other := seen.setdefault(page.ends, number)) != number:
                    raise _DisagreeError(f", page {number}: it repeats page {other}")
                got.append(page)
        for number, (page, call) in enumerate(zip(got, first.ahead, strict=False), 1):
            if page.following != call:
                raise _DisagreeError(f", page {number}: its link does not lead to page {number + 1}")
        rows = sum(page.rows for page in got)
        if first.total is not None and rows != first.total:
            raise _DisagreeError(f": the source reports {first.total} rows, but its {len(got)} pages hold {rows}")
        return [page.packed for page in got]

    def _rest(self, piece: Slice, kept: _Kept, first: _Got) -> Generator[_Got]:
        """The pages after the first: several at once if their calls are known, else each when the last has named it."""
        if first.ahead:
            with ThreadPoolExecutor(http.CONCURRENCY, thread_name_prefix="pages") as pool:
                yield from pool.map(partial(self._later_page, piece, kept, first), count(2), first.ahead)
            return
        page, numbers = first, count(2)
        while page.following is not None:
            page = self._later_page(piece, kept, first, next(numbers), page.following)
            yield page

    def _later_page(self, piece: Slice, kept: _Kept, first: _Got, number: int, call: Call) -> _Got:
        page = self._page(piece, kept, number, call, first)
        if page is None:
            raise SourceRefusedError(f"{piece.name}, page {number}: it does not exist. The last good extract stays.")
        return page

    def _page(self, piece: Slice, kept: _Kept, number: int, call: Call, first: _Got | None = None) -> _Got | None:
        """A page, from those already there or from the source; it is kept once it is found to be good in itself."""
        packed = kept.get(number)
        try:
            body = self.get(call) if packed is None else gzip.decompress(packed)
            if body is None:
                return None
            page = self.read(call, body)
            if first is not None and page.total != first.total:
                raise _ChangedError
            if (page.total or 0) > _MOST_PAGES * max(len(page.rows), 1):  # each would be asked for
                raise SourceRefusedError(
                    f"it reports {page.total} rows, more than {_MOST_PAGES} pages of them. The last good extract stays."
                )
            if page.following and not page.rows:  # whatever follows may be empty too, and so on for ever
                raise SourceRefusedError("it has no rows, though another page follows. The last good extract stays.")
        except SourceError as error:
            raise type(error)(f"{piece.name}, page {number}: {error}") from error
        if packed is None:
            # Packed here, while other pages are awaited: at the end, packing would have to be awaited itself.
            packed = gzip.compress(body, _COMPRESSION, mtime=0)
            kept.keep(number, packed)
        # From the rows, not the body: envelopes may differ around the same rows. The first and last row are enough.
        ends = json.dumps([page.rows[0], page.rows[-1], len(page.rows)]) if page.rows else f"page {number}"
        ahead = tuple(self.ahead(call, page)) if first is None else ()
        return _Got(packed, len(page.rows), page.total, page.following, ends, ahead)


def _kept_under(work: Workspace, now: Versions) -> tuple[str, set[str]]:
    """Where the pages of these versions are kept, and the names of all pages that are there."""
    told = json.dumps([[part, *version.asked, version.state] for part, version in sorted(now.items())])
    digest, today = hashlib.sha256(told.encode()).hexdigest()[:16], datetime.now(UTC).date()
    there = set(work.pages)
    begun = max((name.split("/")[1] for name in there if name.startswith(f"{digest}/")), default="")
    day = begun if begun >= str(today - timedelta(days=1)) else str(today)
    return f"{digest}/{day}", there


def versions(known: Validators | None) -> dict[str, Version]:
    """The versions of the parts of a landed extract; none if it says nothing that can be read."""
    try:
        found = json.loads((known and known.etag) or "{}")
        return {part: Version(*map(str, version)) for part, version in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def asks_otherwise(now: Validators, before: Validators) -> bool:
    """Whether the same service was asked for other parts than before, or for something else in them."""
    new, old = versions(now), versions(before)
    is_same_service = {version.service for version in new.values()} == {version.service for version in old.values()}
    asked, was_asked = ({part: version.request for part, version in found.items()} for found in (new, old))
    return is_same_service and asked != was_asked


def _states(of: Versions) -> str:
    return ", ".join(version.state for version in of.values())
