"""How data is fetched: over HTTP, from files, from databases. Nothing here knows a dataset or where data goes.

A source answers two questions: is there something new (`probe`: cheap, no download), and what is it (`fetch`: into a
folder, with the facts that came with it).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from etl_assets.logs import plain


@dataclass(frozen=True)
class Validators:
    """What a source said about the known version, for conditional requests; and the address that said it."""

    etag: str | None = None
    last_modified: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Workspace:
    """What a source may use while it fetches: a folder that is deleted with the step, and pages that outlive it.

    `pages` holds what an extract has received so far, by name: a killed one resumes there. `previous` opens the last
    landed file. For a source that is read in batches, `batches` names those that were landed, `landed` returns their
    files of a table, oldest first, and `state` is the `Fetched.state` of the last fetch. For a folder, `state` has the
    stamp of each landed file, by name.
    """

    folder: Path
    pages: MutableMapping[str, bytes] = field(default_factory=dict)
    previous: Callable[[], AbstractContextManager[Path | None]] = nullcontext
    batches: Sequence[str] = ()
    state: Mapping[str, Any] = field(default_factory=dict)
    landed: Callable[[str], Iterable[Path]] = lambda name: ()


@dataclass(frozen=True)
class Fetched:
    """What was fetched: a file, and what the source said about it.

    A source that is read in batches returns a folder of files, the batch's name, facts about each file for people, and
    what it wants to know at its next fetch (`state`, which JSON must be able to hold).
    """

    path: Path
    url: str
    validators: Validators
    headers: dict[str, str] = field(default_factory=dict)
    batch: str | None = None
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FetchedFolder:
    """What was fetched from a folder: its files by name, without those already landed; and why others were refused.

    Each file's ETag is the stamp of its version. Files `waiting` are still being written, and left for the next time.
    """

    files: Mapping[str, Fetched]
    refused: Mapping[str, str]
    url: str
    validators: Validators
    waiting: Collection[str] = ()


class SourceError(RuntimeError):
    """A source did not give what was asked for; the message says which source, what it answered and what to do.

    The message is shown in many places and may quote what somebody sent, so it is made plain here.
    """

    def __init__(self, message: str) -> None:
        """Say why."""
        super().__init__(plain(message))


class SourceUnavailableError(SourceError):
    """A passing failure (connection, 429, 5xx), which was retried within its limit: another run may succeed."""


class SourceRefusedError(SourceError):
    """A lasting failure (404, an HTML page, a truncated or empty file): asking again will not help."""


class Source(Protocol):
    """Where a landed file comes from."""

    @property
    def suffix(self) -> str:
        """File name extension of what is fetched, with the dot."""
        ...

    def probe(self, known: Validators | None) -> str | None:
        """The version that the source has now, or None if it is the known one. Cheap: no download."""
        ...

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | FetchedFolder | None:
        """Fetch the source's file, or a folder's new ones, into the workspace; None if it is the known version."""
        ...
