"""What is fuzzed: each source with a small recording, and the answers of it that may be spoilt."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from etl_assets.local.apis import gho
from etl_assets.local.source_server import ROUTES
from etl_assets_tests.datasets.files import event, event_file
from etl_assets_tests.faults import Fault, Query
from etl_assets_tests.fuzz import rows
from etl_assets_tests.fuzz.mutations import BYTES, CSV, JSON, Change

#: APIs with pages as small as the recordings, so that there are some.
PAGED = {**ROUTES, "who_gho": gho(page_size=60)}
TOTESYS = (
    "address", "counterparty", "currency", "department", "design", "payment", "payment_type", "purchase_order",
    "sales_order", "staff", "transaction",
)  # fmt: skip
_ON_THE_WAY = 0.06
_OF_BYTES = 0.25


@dataclass(frozen=True)
class Answer:
    """An answer of a source: what was asked for."""

    path: str
    query: Query


@dataclass(frozen=True)
class Mutation:
    """How one answer of a source is spoilt; `what` says it to a person.

    Of a source that is a database, `answer` is a table and `spoil` changes it; there is no fault on the way.
    """

    what: str
    answer: Answer
    fault: Fault = field(default_factory=Fault)
    spoil: Callable[[psycopg.Connection], None] | None = None


@dataclass(frozen=True)
class Subject:
    """A source to be fuzzed: its datasets, where its answers are, and what makes its recording small."""

    name: str
    datasets: Sequence[str]
    place: str
    structure: Sequence[Change]
    prepare: Callable[[Path], None]
    settings: Mapping[str, str] | None = None
    #: A recording that is no answer, but a file that is dropped into a folder.
    dropped: str | None = None
    #: The database that `place` is a table of, or some table of which is meant where it is empty.
    database: str | None = None
    #: Whether what it has once sent is kept: made well again, its tables are as they were, and their history is not.
    has_history: bool = False

    def mutation(self, seed: int, answers: Sequence[Answer]) -> Mutation:
        """The mutation of a seed; the same for the same seed and answers."""
        chance = random.Random(f"{self.name} {seed}")
        if self.database is not None:
            name, spoil = rows.way(chance)
            table = self.place or chance.choice(TOTESYS)

            def spoilt(connection: psycopg.Connection) -> None:
                rows.unbind(connection, table)
                spoil(connection, table, chance)

            return Mutation(f"{name} of the table {table}", Answer(table, {}), spoil=spoilt)
        answer = chance.choice(answers)
        asked = " ".join(f"{k}={v}" for k, v in answer.query.items() if v is not None)
        if self.dropped is None and chance.random() < _ON_THE_WAY:
            name, fault = chance.choice(_FAULTS)
            return Mutation(f"{name} at {answer.path} {asked}", answer, fault)
        change = chance.choice(BYTES if chance.random() < _OF_BYTES else self.structure)
        within = chance.random()

        def changed(body: bytes) -> bytes:
            # From its own chance each time: the probe and a second attempt get the same answer.
            return change(body, random.Random(f"{self.name} {seed} {within}")) if body else body

        fault = Fault.changed(changed)
        if chance.random() < _ON_THE_WAY / 2:
            fault = replace(fault, is_announced=False)
        return Mutation(f"{change.__name__.lstrip('_')} at {answer.path} {asked}", answer, fault)


_FAULTS = [
    ("truncated", Fault.truncated(0.7)),
    ("truncated without Content-Length", Fault.truncated(0.7, is_announced=False)),
    ("truncated to nothing without Content-Length", Fault.truncated(0.0, is_announced=False)),
    ("reset", Fault.reset(0.3)),
    ("404", Fault.status(404)),
    ("204", Fault.status(204)),
    ("206", Fault.status(206, b"{}")),
    ("500", Fault.status(500, b"\x1b[31m[red]" * 20)),
    ("400 in plain text", Fault.status(400, b"error: '; DROP TABLE fuzz_canary; --")),
    ("429", Fault.status(429, headers={"Retry-After": "0"})),
    ("429 with a date that is none", Fault.status(429, headers={"Retry-After": "-1"})),
    ("compressed, it says", Fault.status(200, b"no gzip", headers={"Content-Encoding": "gzip"})),
    ("HTML", Fault.html()),
    ("a redirect to HTML", Fault.redirect()),
    ("a redirect to itself", Fault.status(302, headers={"Location": ""})),
    ("a redirect elsewhere", Fault.status(302, headers={"Location": "file:///etc/passwd"})),
    ("a redirect to nowhere", Fault.status(301, headers={"Location": "http://[::1"})),
    ("nothing", Fault.empty()),
]


# Recordings ----------------------------------------------------------------------------------------------

_EVENT_DAYS = ("2025-02-10", "2025-02-11", "2025-02-12")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _json(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def _packed(path: Path, content: object) -> None:
    path.write_bytes(gzip.compress(json.dumps(content).encode()))


def _events(data: Path) -> None:
    """Three days of the sample, dirt included, and enough on one of them for it to be refused."""
    path = data / "protest_events" / "2025-03-05" / "ccc.csv"
    lines = gzip.decompress(path.with_suffix(".csv.gz").read_bytes()).split(b"\n")
    kept = [line for line in lines[1:] if line.startswith(tuple(day.encode() for day in _EVENT_DAYS))]
    header = lines[0].rstrip(b"\r").decode().split(",")
    many = event_file(
        [event(date=_EVENT_DAYS[1], title=f"Event {n}", source2=f"{n}.example") for n in range(40)], header
    )
    path.with_suffix(".csv.gz").unlink()
    _write(path, b"\n".join([lines[0], *kept, many.split(b"\n", 1)[1]]))


def _counties(_data: Path) -> None:
    """The sample's are few."""


_BASELINE = [
    {"id": n, "event_id": n // 2, "event_date": f"2017-01-0{1 + n % 3}", "event_state": "CA",
    "event_county": "Los Angeles",
     "event_city": "Los Angeles", "event_type": "march; rally", "event_source": "a.example, b.example"}
    for n in range(1, 61)
]  # fmt: skip


def _baseline_csv(data: Path) -> None:
    lines = [",".join([*_BASELINE[0], "geometry"])]
    for row in _BASELINE:
        fields = [f'"{value}"' if "," in str(value) else str(value) for value in row.values()]
        lines.append(",".join([*fields, "POINT (-118.25 34.05)"]))
    _write(data / "eventdata_baseline" / "2017" / "baseline.csv", "\n".join(lines).encode())


def _baseline_geojson(data: Path) -> None:
    point = {"type": "Point", "coordinates": [-118.25, 34.05]}
    features = [{"type": "Feature", "properties": row, "geometry": point} for row in _BASELINE]
    content = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    _write(data / "eventdata_baseline" / "2017" / "baseline.geojson", content)


def _indicators(data: Path) -> None:
    """Three years."""
    for path in (data / "who_gho").glob("*/*.json.gz"):
        document = _json(path)
        document["value"] = [row for row in document["value"] if row["TimeDim"] in (2017, 2018, 2019)][:200]
        _packed(path, document)


def _advances(data: Path) -> None:
    """Two months."""
    for path in (data / "treasury").glob("*/*.json.gz"):
        document = _json(path)
        rows = [row for row in document["data"] if row["record_date"][:7] in ("2021-07", "2021-08")]
        _packed(path, document | {"data": rows})


def _poverty(_data: Path) -> None:
    """The sample's is small."""


def _databases(_data: Path) -> None:
    """The sample's are small."""


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("protest_events", ["protest_events"], "/protest_events/", CSV, _events),
        Subject("us_counties", ["us_counties"], "/us_counties/", JSON, _counties),
        Subject(
            "eventdata_baseline_csv", ["eventdata_baseline"], "/eventdata_baseline/", CSV, _baseline_csv,
            {"ETL_EVENTDATA_BASELINE": "eventdata_baseline/baseline.csv"},
        ),
        Subject(
            "eventdata_baseline_geojson", ["eventdata_baseline"], "/eventdata_baseline/", JSON, _baseline_geojson,
            {"ETL_EVENTDATA_BASELINE": "eventdata_baseline/baseline.geojson"},
        ),
        Subject("gho", ["gho", "life_expectancy"], "/who_gho/api/WHOSIS", JSON, _indicators),
        Subject("gho_countries", ["gho_countries"], "/who_gho/api/DIM", JSON, _indicators),
        Subject("treasury_title_xii", ["treasury_title_xii"], "/treasury/", JSON, _advances),
        Subject("poverty_national", ["poverty_national"], "/census/data/timeseries/poverty/histpov2", JSON, _poverty),
        Subject("retail_sales", ["retail_sales"], "", CSV, _databases, dropped="retail/sales_data.csv"),
        Subject("retail_products", ["retail_products"], "products", (), _databases, database="retail"),
        Subject("retail_transactions", ["retail_transactions"], "transactions", (), _databases, database="retail"),
        Subject("retail_customers", ["retail_customers"], "/retail/customers", JSON, _databases),
        Subject("retail_exchange_rates", ["retail_exchange_rates"], "/retail/exchange_rates", JSON, _databases),
        Subject("totesys", ["totesys"], "", (), _databases, database="totesys", has_history=True),
        Subject("poverty_small_area", ["poverty_small_area"], "/census/data/timeseries/poverty/saipe", JSON, _poverty),
    )
}  # fmt: skip
