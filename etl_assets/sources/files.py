"""Files that a publisher replaces as a whole, and where they come from. Not here: how they are read (delimited.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from etl_assets.settings import Settings, settings
from etl_assets.sources import Fetched, SourceRefusedError, Validators, Workspace, http


@dataclass(frozen=True)
class WebFile:
    """A file that its publisher replaces as a whole.

    `source` names it in the settings (ETL_<SOURCE>_URL) and at the local source server, which has it as `file`;
    `live` is the publisher's address.
    """

    source: str
    file: str
    live: str

    @property
    def suffix(self) -> str:
        """See `Source.suffix`."""
        return Path(self.file).suffix

    def url(self) -> str:
        """The address as it is configured now."""
        return settings().source_url(self.source, local=f"{self.source}/{self.file}", live=self.live)

    def probe(self, known: Validators | None) -> str | None:
        """See `Source.probe`."""
        return http.probe(self.url(), known)

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """See `Source.fetch`."""
        return http.download(self.url(), work.folder / f"fetched{self.suffix}", known)


@dataclass(frozen=True)
class OptionalFile:
    """A file that the user may name by a setting, as a path or a URL; the name `none` stands for one without records.

    So does a setting that was never set. If it once was, what was landed stays: the variable may be missing in the next
    terminal, and that must not take anything away.
    """

    location: Callable[[Settings], str | None]
    without: bytes
    suffix: str

    def probe(self, known: Validators | None) -> str | None:
        """See `Source.probe`."""
        location = self.location(settings())
        if known and not location:
            return None
        if location and "://" in location:
            return http.probe(location, known)
        version = hashlib.sha256(self._read(location)).hexdigest()
        return None if known and known.etag == version else version

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """See `Source.fetch`."""
        location, to = self.location(settings()), work.folder / f"fetched{self.suffix}"
        if known and not location:
            return None
        if location and "://" in location:
            return http.download(location, to, known)
        if location:
            data = self._read(location)
        else:
            with work.previous() as last:
                data = last.read_bytes() if last else self.without
        version = hashlib.sha256(data).hexdigest()
        if known and known.etag == version:
            return None
        to.write_bytes(data)
        return Fetched(to, Path(location).name if location else "none configured", Validators(etag=version))

    def _read(self, location: str | None) -> bytes:
        if location is None or location == "none":
            return self.without
        try:
            return Path(location).expanduser().read_bytes()
        except OSError as error:
            raise SourceRefusedError(
                f"The file {location} cannot be read: {error.strerror}. The last good file stays."
            ) from error
