"""Dataverse, a repository of research data: every version of a file has an address of its own there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import urlencode

from etl_assets.sources import Fetched, SourceRefusedError, Validators, Workspace, http
from etl_assets.sources.files import WebFile
from etl_assets.sources.paging import parse_json

#: What the API calls a table; Dataverse keeps the CSV files that it could read with tabs, and as they were given.
_TABLES = ("text/csv", "text/tab-separated-values", "text/comma-separated-values", "application/csv")
_LISTS = "/api/datasets/"


class _Version(NamedTuple):
    """A file of a published version: where it is, and what tells it from others."""

    url: str
    etag: str


@dataclass(frozen=True)
class DataverseTable(WebFile):
    """The table among the files of a dataset, in its newest published version.

    `live` is where the API lists the files: `https://…/api/datasets/:persistentId/versions/:latest-published/files`
    with `?persistentId=doi:…`. An address of another kind, the local server's or one that is set, is the file's own.
    See https://guides.dataverse.org/en/latest/api/native-api.html and …/api/dataaccess.html.
    """

    def probe(self, known: Validators | None) -> str | None:
        """See `Source.probe`. The file itself is not asked for, which would count as a download."""
        if (newest := self._newest()) is None:
            return super().probe(known)
        return None if known and known.etag == newest.etag else newest.etag

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """See `Source.fetch`."""
        if (newest := self._newest()) is None:
            return super().fetch(work, known)
        if known and known.etag == newest.etag:
            return None
        fetched = http.download(newest.url, work.folder / f"fetched{self.suffix}")
        return fetched and replace(fetched, validators=replace(fetched.validators, etag=newest.etag))

    def _newest(self) -> _Version | None:
        """The newest version; None where the address is that of a file."""
        url = self.url()
        where = http.public(url)  # what is no address at all is refused
        service, is_list, _ = url.partition(_LISTS)
        if not is_list or service.count("/") != 2:
            return None
        document = parse_json(http.get(url) or b"")
        try:
            files = [entry["dataFile"] for entry in document["data"]]
            tables = [file for file in files if file["contentType"].partition(";")[0] in _TABLES]
            names = [str(file["filename"]) for file in files]
            found = [(int(file["id"]), str(file["checksum"]["value"]), file) for file in tables]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise SourceRefusedError(
                f"{where} is no list of a dataset's files ({type(error).__name__}: {error}). The last good file stays."
            ) from error
        if len(found) != 1:
            raise SourceRefusedError(
                f"{where} lists {len(found)} tables among {names}, and one is expected. Set "
                f"ETL_{self.source.upper()}_URL to the address of the right one; the last good file stays."
            )
        [(number, checksum, file)] = found
        # As it was given: in the form with tabs, quotes within a field are written in another way.
        form = {"format": "original"} if file.get("originalFileFormat") else {}
        query = urlencode({**form, "gbrecs": "true"})  # which keeps this from being counted as a reader's download
        return _Version(f"{service}/api/access/datafile/{number}?{query}", f"{number} {checksum}")
