"""Dataverse, a repository of research data in which every version of a file has an address of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import urlencode

from etl_assets.sources import Fetched, SourceRefusedError, Validators, Workspace, http
from etl_assets.sources.files import WebFile
from etl_assets.sources.records import parse_json

#: The API's types of tables; Dataverse keeps a CSV file that it could read both tab-separated and as uploaded.
_TABLES = ("text/csv", "text/tab-separated-values", "text/comma-separated-values", "application/csv")
_LISTS = "/api/datasets/"


class _Version(NamedTuple):
    """A file of a published version: its address, and what distinguishes it from others."""

    url: str
    etag: str


@dataclass(frozen=True)
class DataverseTable(WebFile):
    """The table among the files of a dataset, in its newest published version.

    `live` is where the API lists the files: `https://…/api/datasets/:persistentId/versions/:latest-published/files`
    with `?persistentId=doi:…`. Any other address, the local server's or a configured one, is that of the file itself.
    See https://guides.dataverse.org/en/latest/api/native-api.html and …/api/dataaccess.html.
    """

    def probe(self, known: Validators | None) -> str | None:
        """See `Source.probe`. The file itself is not requested: that would count as a download."""
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
        """The newest version; None if the address is that of a file."""
        url = self.url()
        where = http.public(url)  # refuses what is not an address
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
                f"{where} does not answer with a dataset's list of files ({type(error).__name__}: {error}). "
                "The last good file stays."
            ) from error
        if len(found) != 1:
            raise SourceRefusedError(
                f"{where} lists {len(found)} tables among {names}, but must list one. Set "
                f"ETL_{self.source.upper()}_URL to the address of the right one; the last good file stays."
            )
        [(number, checksum, file)] = found
        # As uploaded: the tab-separated form writes quotes within a field differently.
        form = {"format": "original"} if file.get("originalFileFormat") else {}
        query = urlencode({**form, "gbrecs": "true"})  # gbrecs: do not count this as a reader's download
        return _Version(f"{service}/api/access/datafile/{number}?{query}", f"{number} {checksum}")
