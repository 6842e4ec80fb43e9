"""Paged APIs: an extract that is whole or is not landed, and that goes on where it was cut off.

An extract is cut into slices (an indicator, a month, a year), and each slice into the pages that the API gives. Every
page is kept as soon as it has come; an extract that is killed goes on with the first page that it does not have. A
source that changes between two pages of a slice makes that slice start anew. When all slices are whole (the pages, the
rows and the source's own counts agree), their pages become one file, exactly as received: a zip of one entry per page.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from etl_assets.sources import Fetched, SourceError, SourceRefusedError, Validators, Workspace, http

#: Slices that are extracted at once; a host is never asked more than this.
CONCURRENCY = 4
_ATTEMPTS = 3
#: A fixed date for the zip's entries: equal pages make an equal file.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Call:
    """A request for a page, without secrets."""

    url: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What a page says of itself: its rows, how many there are in all, and where the next page is."""

    rows: Sequence[Any]
    total: int | None = None
    following: Call | None = None


@dataclass(frozen=True)
class Slice:
    """A part of an extract that is whole or not by itself.

    A settled slice is one that the source does not change any more: it is taken from the last landed file.
    """

    name: str
    first: Call
    settled: bool = False


class _ChangedError(Exception):
    """The source changed between two pages of a slice."""


@dataclass(frozen=True)
class _Kept:
    """The pages of a slice that are there already."""

    work: Workspace
    prefix: str

    def get(self, number: int) -> bytes | None:
        return self.work.pages.get(f"{self.prefix}{number:05d}")

    def keep(self, number: int, body: bytes) -> None:
        self.work.pages[f"{self.prefix}{number:05d}"] = body

    def forget(self) -> None:
        for name in [name for name in self.work.pages if name.startswith(self.prefix)]:
            del self.work.pages[name]


class PagedSource(ABC):
    """A source that is extracted page by page; a subclass says what the slices are and how a page is read."""

    suffix = ".zip"

    @abstractmethod
    def slices(self, known: Validators | None) -> Sequence[Slice]:
        """What to extract, in the order in which it is put together."""

    @abstractmethod
    def read(self, call: Call, body: bytes) -> Page:
        """Read a page; raises SourceRefusedError for one that is not what it says."""

    @abstractmethod
    def probe(self, known: Validators | None) -> str | None:
        """See `Source.probe`."""

    def secrets(self) -> Mapping[str, str]:
        """Parameters that are sent but never written down; raises NotConfiguredError where one is missing."""
        return {}

    def auth(self) -> http.Bearer | None:
        """The token to send, if the source wants one; raises NotConfiguredError where it is missing."""
        return None

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """Extract every slice; None if the version is the known one.

        Pages are kept under the version that they are of: those of an extract that was cut off before the source
        changed are not taken up again.
        """
        self.secrets()  # before the first request
        version = self.probe(known)
        if version is None and known is not None:
            return None
        with work.previous() as last:
            settled = _entries(last)
        for _ in range(_ATTEMPTS):
            path = self._extract_all(work, known, settled, place=hashlib.sha256(str(version).encode()).hexdigest()[:16])
            before, version = version, self.probe(None)
            if version == before:
                return Fetched(path, http.public(self.slices(known)[0].first.url), Validators(etag=version))
        raise SourceRefusedError(
            f"The source changed while it was extracted, {_ATTEMPTS} times in a row ({before}, then {version}). Run "
            "again when it has been published; the last good extract stays."
        )

    def _extract_all(
        self, work: Workspace, known: Validators | None, settled: Mapping[str, list[bytes]], place: str
    ) -> Path:
        """Every slice, put together in one file."""
        slices = self.slices(known)
        kept = [_Kept(work, f"{place}/{part.name}/") for part in slices]
        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="extract") as pool:
            bodies = list(pool.map(self._slice, slices, kept, [settled] * len(slices)))
        if not any(bodies):
            raise SourceRefusedError(f"{http.public(slices[0].first.url)} has no data for what was asked for.")
        path = work.folder / f"extract{self.suffix}"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for part, pages_of_part in zip(slices, bodies, strict=True):
                for number, body in enumerate(pages_of_part, 1):
                    entry = zipfile.ZipInfo(f"{part.name}/{number:05d}", _EPOCH)
                    archive.writestr(entry, body, zipfile.ZIP_DEFLATED)
        return path

    def _slice(self, part: Slice, kept: _Kept, settled: Mapping[str, list[bytes]]) -> list[bytes]:
        if part.settled and part.name in settled:
            return settled[part.name]
        for _ in range(_ATTEMPTS):
            try:
                return self._extract(part, kept)
            except _ChangedError:
                kept.forget()
        raise SourceRefusedError(
            f"{part.name}: the source changed between two pages, {_ATTEMPTS} times in a row. Run again when it is "
            "published; the last good extract stays."
        )

    def _extract(self, part: Slice, kept: _Kept) -> list[bytes]:
        """All pages of a slice, those that are there already and those that are not."""
        bodies: list[bytes] = []
        pages: list[Page] = []
        call: Call | None = part.first
        seen: dict[str, int] = {}
        while call is not None:
            number = len(bodies) + 1
            body = kept.get(number)
            is_new = body is None
            try:
                if body is None:
                    with _host(call.url):
                        body = http.get(call.url, {**call.parameters, **self.secrets()}, self.auth())
                if body is None:
                    return []  # not published yet
                page = self.read(call, body)
            except SourceError as error:
                raise type(error)(f"{part.name}, page {number}: {error}") from error
            if pages and page.total != pages[0].total:
                raise _ChangedError
            if page.following and not page.rows:  # whatever follows may be empty too, and so on for ever
                raise SourceRefusedError(
                    f"{part.name}, page {number}: it has no rows, though another page follows. The last good extract "
                    "stays."
                )
            digest = hashlib.sha256(json.dumps(page.rows).encode()).hexdigest()
            if page.rows and digest in seen:
                raise SourceRefusedError(
                    f"{part.name}, page {number}: it repeats page {seen[digest]}. The last good extract stays."
                )
            seen[digest] = number
            if is_new:
                kept.keep(number, body)
            bodies.append(body)
            pages.append(page)
            call = page.following
        total, rows = pages[0].total, sum(len(page.rows) for page in pages)
        if total is not None and rows != total:
            kept.forget()
            raise SourceRefusedError(
                f"{part.name}: the source says that there are {total} rows, its {len(pages)} pages hold {rows}. The "
                "last good extract stays."
            )
        return bodies


_hosts: dict[str, threading.BoundedSemaphore] = {}


def _host(url: str) -> threading.BoundedSemaphore:
    """What bounds the requests to a host that are under way at once."""
    return _hosts.setdefault(url.split("/")[2], threading.BoundedSemaphore(CONCURRENCY))


def _entries(archive: Path | None) -> dict[str, list[bytes]]:
    """The pages of a landed extract, by slice."""
    found: dict[str, list[bytes]] = {}
    for name, body in pages(archive) if archive else ():
        found.setdefault(name.rpartition("/")[0], []).append(body)
    return found


def pages(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every page of a landed extract, in order."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                yield name, opened.read(name)
    except zipfile.BadZipFile as error:
        raise SourceRefusedError(f"{archive.name} is not an extract: {error}.") from error


def read_pages(archive: Path, records: Callable[[Any], Sequence[Mapping[str, Any]]]) -> pl.DataFrame:
    """Every record of a landed extract as text, numbers as the source wrote them, with `_source_row` and `_page`.

    `records` gives the records of a page's JSON.
    """
    rows: list[dict[str, str | None]] = []
    for name, body in pages(archive):
        try:
            document = json.loads(body, parse_float=str, parse_int=str)
            rows.extend({**{k: _text(v) for k, v in record.items()}, "_page": name} for record in records(document))
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise SourceRefusedError(f"{archive.name}, page {name}: not the expected JSON ({error}).") from error
    columns = dict.fromkeys(name for row in rows for name in row)
    frame = pl.DataFrame({c: [row.get(c) for row in rows] for c in columns}, schema=dict.fromkeys(columns, pl.String))
    return frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("_source_row"))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
