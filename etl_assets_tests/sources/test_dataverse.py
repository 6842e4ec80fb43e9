"""A table of a Dataverse dataset: its newest version is looked up, and fetched in the form in which it was given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from etl_assets.local.routes import Request, Response
from etl_assets.local.source_server import serve
from etl_assets.sources import SourceRefusedError, Workspace
from etl_assets.sources.dataverse import DataverseTable

FILES = "api/datasets/:persistentId/versions/:latest-published/files?persistentId=doi:10.1/A"
SOURCE = DataverseTable("events", "events.csv", "https://dataverse.invalid/" + FILES)
CODEBOOK = {
    "label": "codebook.pdf",
    "dataFile": {"id": 7, "filename": "codebook.pdf", "contentType": "application/pdf"},
}


def table(number: int, checksum: str, **more: str) -> dict[str, Any]:
    """An entry of the list, as the API has it."""
    file = {"id": number, "filename": "events.csv", "contentType": "text/csv", "checksum": {"type": "MD5"}}
    return {"label": "events.csv", "dataFile": {**file, "checksum": {"type": "MD5", "value": checksum}, **more}}


@dataclass
class Dataset:
    """What the service has of a dataset, and what it was asked for."""

    files: Any
    asked: list[str] = field(default_factory=list)

    def answer(self, request: Request) -> Response:
        """The list of files, or one of them."""
        query = "&".join(f"{name}={values[0]}" for name, values in request.query.items())
        self.asked.append(f"{request.path}?{query}")
        if request.segments[1] == "datasets":
            assert query == "persistentId=doi:10.1/A"
            return Response(200, json.dumps({"status": "OK", "data": self.files}).encode())
        return Response(200, f"id\n{request.segments[-1]}\n".encode())


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataset]:
    """A dataset with a table and a codebook."""
    made = Dataset([CODEBOOK, table(20, "abc")])
    with serve(tmp_path, routes={"api": made.answer}) as url:
        monkeypatch.setenv("ETL_EVENTS_URL", f"{url}/{FILES}")
        yield made


def test_another_version_is_another_address(dataset: Dataset, tmp_path: Path) -> None:
    assert SOURCE.probe(None) == "20 abc"
    assert len(dataset.asked) == 1, "the file itself is not asked for"
    fetched = SOURCE.fetch(Workspace(tmp_path), None)
    assert fetched is not None
    assert fetched.path.read_bytes() == b"id\n20\n"
    assert dataset.asked[-1] == "/api/access/datafile/20?gbrecs=true"
    assert fetched.url.endswith("/api/access/datafile/20")
    assert (SOURCE.probe(fetched.validators), SOURCE.fetch(Workspace(tmp_path), fetched.validators)) == (None, None)

    ingested = {"contentType": "text/tab-separated-values", "originalFileFormat": "text/csv"}
    dataset.files = [table(21, "def", **ingested)]
    assert SOURCE.probe(fetched.validators) == "21 def"
    assert SOURCE.fetch(Workspace(tmp_path), fetched.validators) is not None
    assert dataset.asked[-1] == "/api/access/datafile/21?format=original&gbrecs=true"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([CODEBOOK], r"lists 0 tables among \['codebook.pdf'\], but must list one. Set ETL_EVENTS_URL"),
        ([table(1, "a"), table(2, "b")], "lists 2 tables"),
        ([table(1, "a", id="../1")], "does not answer with a dataset's list of files"),
        ({"message": "not found"}, "does not answer with a dataset's list of files"),
    ],
)
def test_a_list_without_the_table_is_refused(dataset: Dataset, files: Any, why: str) -> None:
    dataset.files = files
    with pytest.raises(SourceRefusedError, match=why):
        SOURCE.probe(None)


@pytest.mark.parametrize("address", ["http://[x", f"http://[x/{FILES}"])
def test_what_is_no_address_fails_its_source_and_nothing_else(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_EVENTS_URL", address)
    with pytest.raises(SourceRefusedError, match="The address that is set for it is not a URL"):
        SOURCE.probe(None)
    with pytest.raises(SourceRefusedError, match="The address that is set for it is not a URL"):
        SOURCE.fetch(Workspace(tmp_path), None)


def test_the_address_of_a_file_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(tmp_path, routes={"a": lambda request: Response(200, b"id\n1\n", headers={"ETag": '"v1"'})}) as url:
        monkeypatch.setenv("ETL_EVENTS_URL", f"{url}/a/datafile/1")
        assert SOURCE.probe(None) == '"v1"'
        fetched = SOURCE.fetch(Workspace(tmp_path), None)
    assert fetched is not None
    assert fetched.validators.etag == '"v1"'
