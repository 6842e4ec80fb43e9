"""A folder or prefix that somebody drops files into: every new file is taken once, whatever it is called.

A file is identified by its name, and its version by the store's own stamp. A file that is replaced under its name is a
new version of it; one that is moved away stays as it was landed, until the folder is landed anew. Names that begin with
a dot or end like those of unfinished downloads are ignored, and a local file that is still being written is left for
the next time.
"""

from __future__ import annotations

import email.utils
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.store import ObjectStore

from etl_assets.objects import local_folder, object_store, plain_message
from etl_assets.settings import NotConfiguredError, Settings, settings
from etl_assets.sources import (
    Fetched,
    FetchedFolder,
    SourceRefusedError,
    SourceUnavailableError,
    Validators,
    Workspace,
)

log = logging.getLogger(__name__)

_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart", "~")
#: A local file whose last line has no end, and that was written to within this time, is considered unfinished.
_SETTLES_AFTER = timedelta(minutes=1)


@dataclass(frozen=True)
class _Opened:
    """What is watched, as it is configured now: its address, its store, and its folder unless it is in a bucket."""

    url: str
    store: ObjectStore
    folder: Path | None


@dataclass(frozen=True)
class WatchedFolder:
    """The files below the folder or prefix that a setting names.

    `check` reads a file and raises SourceRefusedError if it is broken: that file is left where it is and reported, and
    the others are taken.
    """

    location: Callable[[Settings], str | None]
    variable: str
    check: Callable[[Path], object]
    suffix: str

    def probe(self, known: Validators | None) -> str | None:
        """A digest of names and stamps; None if it is the known one."""
        opened = self._open()
        files, _ = self._files(opened)
        version = _version({name: _stamp(meta) for name, meta in files if not _waits(opened, meta)})
        return None if known and known.etag == version else version

    def fetch(self, work: Workspace, known: Validators | None) -> FetchedFolder | None:
        """The files that are new, or differ from the landed ones of the same name; and why others were not taken."""
        opened, landed = self._open(), work.state if known else {}
        files: dict[str, Fetched] = {}
        stamps: dict[str, str] = {}
        waiting: list[str] = []
        listed, refused = self._files(opened)
        for number, (name, meta) in enumerate(listed):
            stamp, path = _stamp(meta), work.folder / f"{number}{self.suffix}"
            if landed.get(name) == stamp:
                stamps[name] = stamp
                continue
            try:
                file = self._take(opened, name, meta, path)
            except SourceRefusedError as error:
                refused[name] = str(error).removeprefix(f"{path.name}: ").replace(path.name, "the file")
                stamps[name] = stamp  # although refused: it is no reason to look again until it is replaced
            except (OSError, obstore.exceptions.BaseError) as error:
                refused[name] = f"It cannot be read: {plain_message(error)}. It is tried again with the next run."
            else:
                if file is None:
                    waiting.append(name)
                else:
                    files[name], stamps[name] = file, stamp
        if not files and not work.state:
            why = "; ".join(f"{name}: {reason}" for name, reason in refused.items()) or "no finished file is there"
            raise SourceRefusedError(f"{opened.url} has no file that can be read ({why}). Put one there and run again.")
        return FetchedFolder(files, refused, opened.url, Validators(etag=_version(stamps)), waiting)

    def _take(self, opened: _Opened, name: str, meta: Mapping[str, Any], path: Path) -> Fetched | None:
        """Fetch a file and check it; None if it is still being written or has just been replaced."""
        stamp = _stamp(meta)
        if _waits(opened, meta) or not _download(opened.store, name, stamp, path):
            return None
        self.check(path)
        modified = email.utils.format_datetime(meta["last_modified"].astimezone(UTC), usegmt=True)
        return Fetched(path, f"{opened.url.rstrip('/')}/{name}", Validators(stamp, modified))

    def _open(self) -> _Opened:
        url = self.location(settings())
        if not url:
            raise NotConfiguredError(
                f"No folder to watch: set {self.variable} to a folder or an s3://bucket/prefix. The embedded default "
                "has one: start it with `./dev up`."
            )
        folder = local_folder(url)
        if folder is not None and not folder.is_dir():
            raise NotConfiguredError(
                f"{self.variable} names {folder}, which is not a folder: create it, or use another."
            )
        try:
            return _Opened(url, object_store(url), folder)
        except (OSError, ValueError, obstore.exceptions.BaseError) as error:
            raise NotConfiguredError(
                f"{self.variable} is neither a folder nor an s3://bucket/prefix that can be opened: "
                f"{plain_message(error)}"
            ) from error

    def _files(self, opened: _Opened) -> tuple[list[tuple[str, Mapping[str, Any]]], dict[str, str]]:
        """Name and facts of every file that has the name of a finished one, sorted; and what cannot be looked at."""
        refused: dict[str, str] = {}
        try:
            found = [meta for page in obstore.list(opened.store) for meta in page]
        except (OSError, obstore.exceptions.BaseError) as error:
            if opened.folder is None:
                raise SourceUnavailableError(
                    f"{opened.url} ({self.variable}) cannot be listed: {plain_message(error)}"
                ) from error
            found, refused = _walked(opened.folder, opened.store)
        listed = sorted(((meta["path"], meta) for meta in found), key=lambda item: item[0])
        return [(name, meta) for name, meta in listed if _is_finished(name)], refused


def _walked(folder: Path, store: ObjectStore) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """The files of a folder one by one, and why others cannot be looked at: one of them would refuse all in a listing.

    Such as a folder of somebody else, a name that is not text, or a link that leads back.
    """
    found: list[Mapping[str, Any]] = []
    refused: dict[str, str] = {}

    def note(path: str | Path, error: Exception) -> None:
        told = os.path.relpath(path, folder), f"It cannot be read: {plain_message(error)}."
        name, why = (text.encode(errors="surrogateescape").decode(errors="replace") for text in told)
        refused[name] = why

    for place, _, names in os.walk(folder, onerror=lambda error: note(error.filename, error)):
        for path in (Path(place, name) for name in names):
            try:
                found.append(obstore.head(store, path.relative_to(folder).as_posix()))
            except (OSError, ValueError, obstore.exceptions.BaseError) as error:
                note(path, error)
    return found, {name: why for name, why in refused.items() if _is_finished(name)}


def _is_finished(name: str) -> bool:
    """Whether a file has the name of a finished one."""
    return not any(part.startswith(".") for part in name.split("/")) and not name.endswith(_UNFINISHED)


def _stamp(meta: Mapping[str, Any]) -> str:
    return meta.get("e_tag") or f"{meta['size']} {meta['last_modified'].isoformat()}"


def _version(stamps: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{name}\0{stamp}" for name, stamp in sorted(stamps.items())).encode()).hexdigest()


def _waits(opened: _Opened, meta: Mapping[str, Any]) -> bool:
    """Whether a local file seems to be still being written; an object in a bucket is there whole or not at all."""
    if opened.folder is None or datetime.now(UTC) - meta["last_modified"] >= _SETTLES_AFTER:
        return False
    size = meta["size"]
    try:
        if size and bytes(obstore.get_range(opened.store, meta["path"], start=size - 1, length=1)) in (b"\n", b"\r"):
            return False
    except FileNotFoundError:
        return True  # it has been moved away since it was listed
    except (OSError, obstore.exceptions.BaseError):
        return False  # the fetch says why it cannot be read
    log.warning(
        "%s/%s is not taken yet: its last line has no end, so it may still be being written. It is taken by a run at "
        "least a minute after the last write.",
        opened.url.rstrip("/"), meta["path"],
    )  # fmt: skip
    return True


def _download(store: ObjectStore, name: str, stamp: str, to: Path) -> bool:
    """Fetch a file; return whether it is whole and still has the stamp."""
    try:
        with to.open("wb") as sink:
            for chunk in obstore.get(store, name).stream(min_chunk_size=8 << 20):
                sink.write(chunk)
        return _stamp(obstore.head(store, name)) == stamp
    except FileNotFoundError:
        return False
