"""The APIs of one test, extracts from them, and their rows by means other than the project's."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from etl_assets.sources import Fetched, Validators, Workspace
from etl_assets.sources.census import CensusSource
from etl_assets.sources.extracts import pages
from etl_assets.sources.fiscal_data import FiscalDataSource
from etl_assets.sources.odata import ODataSource
from etl_assets.sources.paging import PagedSource
from etl_assets_tests.faults import Fault, Faults

PROJECT = Path(__file__).parents[2]
GHO_PATH = "/who_gho/api/WHOSIS_000001"
TITLE_XII_PATH = "/treasury/services/api/fiscal_service/v2/accounting/od/title_xii"
SAIPE_PATH = "/census/data/timeseries/poverty/saipe"
#: The sample's indicator has 1,782 rows: 20 pages.
GHO_PAGE, GHO_PAGES = 90, 20
GHO = ODataSource(
    source="who_gho",
    live="https://who.invalid",
    path="api",
    sets={"WHOSIS_000001": ""},
    order="SpatialDim,TimeDim,Dim1,Dim2,Dim3",
    stamp="Date",
)
#: The sample's April 2020 has 200 rows: 5 pages.
TITLE_XII = FiscalDataSource(
    source="treasury",
    live="https://treasury.invalid",
    path=TITLE_XII_PATH.removeprefix("/treasury/"),
    sort="record_date,src_line_nbr",
    page_size=40,
)
APRIL = {"filter": "record_date:gte:2020-04-01,record_date:lt:2020-05-01"}
SAIPE = CensusSource(
    source="census",
    live="https://census.invalid",
    path=SAIPE_PATH.removeprefix("/census/"),
    variables=["NAME", "SAEPOVALL_PT"],
    geographies={"state": {"for": "state:*"}, "county": {"for": "county:*", "in": "state:*"}},
    first_year=2015,
)


@dataclass
class Api:
    """The APIs of one test, and what an extract from them keeps between one attempt and the next."""

    url: str
    data: Path
    as_of: Path
    folder: Path
    faults: Faults
    stored: dict[str, bytes] = field(default_factory=dict)
    extracts: int = 0

    def fetch(
        self, source: PagedSource, known: Validators | None = None, previous: Path | None = None, **options: Any
    ) -> Fetched | None:
        """One attempt at an extract; what it has got stays in `stored`, as in a lake, unless told otherwise."""
        self.extracts += 1
        folder = self.folder / str(self.extracts)
        folder.mkdir()
        return source.fetch(Workspace(folder, options.get("stored", self.stored), lambda: nullcontext(previous)), known)

    def extract(self, source: PagedSource, **options: Any) -> Fetched:
        """An extract that has to come to its end."""
        fetched = self.fetch(source, **options)
        assert fetched is not None
        return fetched

    def asked(self, path: str, page: str) -> Counter[str]:
        """How often each page of a path was asked for; a page is told by one of its parameters."""
        queries = [parse_qs(entry.query) for entry in self.faults.log if entry.path == path]
        return Counter(query.get(page, ["first"])[0] for query in queries if not is_probe(query))

    def recorded(self, name: str) -> list[dict[str, Any]]:
        """The rows of a recording."""
        document = json.loads(gzip.decompress((self.data / name).read_bytes()))
        return document["value"] if "value" in document else document["data"]


def is_probe(query: dict[str, list[str]]) -> bool:
    """Whether a request asks for the version alone."""
    return query.get("$top") == ["1"] or query.get("page[size]") == ["1"]


def gho_rows(fetched: Fetched) -> list[dict[str, Any]]:
    """The records of an OData extract, by means other than the project's."""
    return [row for _, body in pages(fetched.path) for row in json.loads(body)["value"]]


def treasury_rows(fetched: Fetched) -> list[dict[str, Any]]:
    """The records of a Fiscal Data extract."""
    return [row for _, body in pages(fetched.path) for row in json.loads(body)["data"]]


def same(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> bool:
    """Whether two lists hold the same rows, each as often."""
    return sorted(json.dumps(row, sort_keys=True) for row in rows) == sorted(
        json.dumps(row, sort_keys=True) for row in others
    )


def content(fetched: Fetched) -> bytes:
    return fetched.path.read_bytes()


Change = Callable[[Any], object]


def changed(change: Change) -> Fault:
    """A page with its document changed."""

    def rewritten(body: bytes) -> bytes:
        document = json.loads(body)
        change(document)
        return json.dumps(document).encode()

    return Fault.changed(rewritten)


def census_rows(fetched: Fetched) -> dict[str, list[dict[str, str | None]]]:
    """The rows of each answer by the name of its slice, by means other than the project's."""
    found = {}
    for name, body in pages(fetched.path):
        header, *rows = json.loads(body)
        found[name.partition("/")[0]] = [dict(zip(header, row, strict=True)) for row in rows]
    return found
