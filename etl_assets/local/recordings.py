"""Recorded sources as they are to be seen on one date.

Here: which publication of a source is shown on which date, and its files. Not here: HTTP (source_server.py), and how
an API answers from its recordings (apis).
"""

from __future__ import annotations

import calendar
import contextlib
import gzip
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path

#: Stands in for the publication date of a source that has no dated folders.
UNDATED = "undated"

_CONTENT_TYPES = {
    ".csv": "text/csv",
    ".geojson": "application/geo+json",
    ".gz": "application/gzip",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".parquet": "application/vnd.apache.parquet",
}


def publications(data: Path) -> dict[str, list[str]]:
    """Every source in `data` with its publication dates, oldest first; none for an undated source."""
    if not data.is_dir():
        raise FileNotFoundError(f"no folder of recorded sources at {data}")
    sources = (entry for entry in sorted(data.iterdir()) if entry.is_dir() and not entry.name.startswith("."))
    return {source.name: _dates(source) for source in sources}


def _dates(source: Path) -> list[str]:
    """The publication dates in a source's folder, oldest first."""
    return sorted((entry.name for entry in source.iterdir() if _is_date(entry.name) and entry.is_dir()), key=first_day)


@dataclass(frozen=True)
class Recording:
    """One recorded file, as the source would send it."""

    path: Path
    published: datetime
    unpacked: bool

    def read(self) -> bytes:
        """The bytes to send: a packed file is unpacked, unless it was asked for by its packed name."""
        content = self.path.read_bytes()
        return gzip.decompress(content) if self.unpacked else content

    @property
    def etag(self) -> str:
        """A strong validator of the bytes to send."""
        stat = self.path.stat()
        return _etag(self, stat.st_mtime_ns, stat.st_size)

    @property
    def content_type(self) -> str:
        """The content type, by the name that the recording is served under."""
        name = self.path.with_suffix("") if self.unpacked else self.path
        return _CONTENT_TYPES.get(name.suffix, "application/octet-stream")


@dataclass(frozen=True)
class Recordings:
    """The folder of recordings as it is to be seen on one date; without a date, the newest of everything."""

    data: Path
    as_of: str | None = None

    def shown(self) -> dict[str, str]:
        """Source -> the publication it shows."""
        return {source: self._choose(dates) for source, dates in publications(self.data).items()}

    def find(self, source: str, *names: str) -> Recording | None:
        """The file of that name in the publication `source` shows, or beside its dated folders."""
        dates = self._dates_of(source)
        if dates is None or not names or not all(map(_is_safe, names)):
            return None
        return self._recording(source, self._choose(dates), names)

    def files(self, source: str) -> list[str]:
        """The names that `find` knows, in the form in which they are requested."""
        return self._files(source, self._choose(_dates(self.data / source)))

    def latest(self, source: str) -> dict[str, Recording]:
        """Every file of `source` by name, each from the newest publication that holds it and is not after the date.

        For an API of many series, each recorded at its own time: a series that the publication shown lacks is still
        there. As with a whole source, a series that has no publication that old shows its oldest.
        """
        dates = self._dates_of(source)
        if dates is None:
            return {}
        limit = last_day(self.as_of) if self.as_of else date.max
        due = [day for day in dates if first_day(day) <= limit]
        found: dict[str, Recording] = {}
        for day in (*reversed(dates[len(due) :]), *due) or (UNDATED,):
            for name in self._files(source, day):
                if recording := self._recording(source, day, name.split("/")):
                    found[name] = recording
        return found

    def _dates_of(self, source: str) -> list[str] | None:
        """The publication dates of a source, oldest first; None if there is no such source."""
        found = (entry for entry in self.data.iterdir() if entry.name == source)  # the name may be anything
        home = next(found, None)
        return _dates(home) if home and _is_safe(source) and home.is_dir() else None

    def _recording(self, source: str, shown: str, names: Sequence[str]) -> Recording | None:
        """The file of that name in a publication, or beside the dated folders."""
        if shown != UNDATED:
            published = datetime.combine(first_day(shown), datetime.min.time(), UTC)
            if recording := _open(self.data.joinpath(source, shown, *names), published):
                return recording
            if _is_date(names[0]):  # a publication is chosen by date, never by naming its folder
                return None
        return _open(self.data.joinpath(source, *names), None)

    def _files(self, source: str, shown: str) -> list[str]:
        """The names of the files in a publication, and of those beside the dated folders."""
        home = self.data / source
        found = {path.relative_to(home) for path in home.rglob("*") if path.is_file()}
        found = {
            path.relative_to(shown) if path.parts[0] == shown else path
            for path in found
            if path.parts[0] == shown or not _is_date(path.parts[0])
        }
        return sorted(path.as_posix().removesuffix(".gz") for path in found if all(map(_is_safe, path.parts)))

    def _choose(self, dates: list[str]) -> str:
        if not dates:
            return UNDATED
        limit = last_day(self.as_of) if self.as_of else date.max
        return max((d for d in dates if first_day(d) <= limit), key=first_day, default=dates[0])


def _open(path: Path, published: datetime | None) -> Recording | None:
    for candidate, unpacked in ((path, False), (path.with_name(path.name + ".gz"), True)):
        if candidate.is_file():
            modified = datetime.fromtimestamp(int(candidate.stat().st_mtime), UTC)
            return Recording(candidate, published or modified, unpacked)
    return None


@lru_cache(maxsize=256)
def _etag(recording: Recording, mtime_ns: int, size: int) -> str:
    # Only the digest is kept: a sensor asks for it every half minute, the bytes may be hundreds of megabytes.
    return f'"{hashlib.sha256(recording.read()).hexdigest()}"'


def _is_safe(name: str) -> bool:
    """Whether a path segment can only name something directly inside the folder that it is looked up in."""
    return bool(name) and not name.startswith(".") and not set(name) & set("/\\\0")


def _period(text: str) -> tuple[date, date]:
    """First and last day of `YYYY`, `YYYY-MM` or `YYYY-MM-DD`."""
    if match := re.fullmatch(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?", text, re.ASCII):
        year, month, day = (int(part or 0) for part in match.groups())
        with contextlib.suppress(ValueError):  # such as the 30th of February, refused below
            end = day or calendar.monthrange(year, month or 12)[1]
            return date(year, month or 1, day or 1), date(year, month or 12, end)
    raise ValueError(f"not a date for the state of the sources: {text!r} (expected YYYY-MM-DD, YYYY-MM or YYYY)")


def _is_date(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(_period(text))
    return False


def first_day(text: str) -> date:
    """The first day of a publication date: `YYYY`, `YYYY-MM` or `YYYY-MM-DD`; raises ValueError for any other text."""
    return _period(text)[0]


def last_day(text: str) -> date:
    """The last day of a publication date; see `first_day`."""
    return _period(text)[1]
