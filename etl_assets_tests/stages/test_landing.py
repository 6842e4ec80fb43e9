"""The landing stage: what a source is told of what was landed before, and what is landed of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from etl_assets.automation.partitions import daily
from etl_assets.sources import Fetched, SourceUnavailableError, Validators, Workspace
from etl_assets.stages.dataset import SPECS, Dataset
from etl_assets.stages.landing import ACCEPT_SHRUNK, ANEW, landing
from etl_assets.storage.configured import landing_store
from etl_assets.storage.io_managers import LandingIOManager
from etl_assets.storage.landing import Manifest
from etl_assets_tests.house import ephemeral

BATCHES = ["2025-01-15T080000.000000Z", "2025-01-16T080000.000000Z", "2025-01-17T080000.000000Z"]


@dataclass
class Asked:
    """A source that answers as a test says, and notes what it was told."""

    answer: Callable[[Workspace], Fetched | None] = lambda work: None
    told: list[tuple[dict[str, Any], list[str], str | None]] = field(default_factory=list)

    suffix = ".csv"

    def probe(self, known: Validators | None) -> str | None:
        return None

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        self.told.append((dict(work.state), sorted(work.pages), known.etag if known else None))
        return self.answer(work)


@dataclass
class Stage:
    """The landing asset of a dataset of its own."""

    source: Asked
    asset: dg.AssetsDefinition
    instance: dg.DagsterInstance

    def land(self, answer: Callable[[Workspace], Fetched | None], *tags: str) -> bool:
        """Land an answer, in a run with some tags; gives whether it was landed."""
        self.source.answer = answer
        resources = {"landing_io": LandingIOManager()}
        named = dict.fromkeys(tags, "true")
        return dg.materialize(
            [self.asset], instance=self.instance, resources=resources, tags=named, raise_on_error=False
        ).success

    def current(self) -> Manifest:
        found = landing_store("answers").current()
        assert found
        return found


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    before = dict(SPECS)
    dataset = Dataset(
        name="answers", title="Answers", publisher="A test", homepage="https://example.org", licence="none",
        citation="none", cadence="never", partitions=daily("2025-01-01"),
    )  # fmt: skip
    source = Asked()
    with ephemeral() as instance:
        yield Stage(source, landing(dataset, source), instance)
    SPECS.clear()
    SPECS.update(before)


def batch(name: str, *, rows: int, gone: int = 0, known: int = 0) -> Callable[[Workspace], Fetched]:
    """A batch with rows of one table, of which others are gone."""

    def answer(work: Workspace) -> Fetched:
        pl.DataFrame({"id": range(rows)}).write_parquet(work.folder / "item.parquet")
        facts = {"item": {"rows": rows, "deleted": gone, "compared": True, "known": known}}
        state = {"item": {"watermark": name}}
        return Fetched(work.folder, "postgresql://a", Validators(name), batch=name, facts=facts, state=state)

    return answer


def file(content: str) -> Callable[[Workspace], Fetched]:
    """A file that was put together from a page."""

    def answer(work: Workspace) -> Fetched:
        work.pages["1"] = content.encode()
        (path := work.folder / "answers.csv").write_text(content)
        return Fetched(path, "http://a", Validators(content[:5]))

    return answer


def cut_off(work: Workspace) -> Fetched:
    """An extract that ends after its first page."""
    work.pages["1"] = b"of before"
    raise SourceUnavailableError("it is gone")


def test_a_source_that_is_landed_anew_is_told_nothing_of_before(stage: Stage) -> None:
    """It would leave out what it takes for landed: what was landed wrongly would stay."""
    for name, tags in zip(BATCHES, ((), (), (ANEW,)), strict=True):
        assert stage.land(batch(name, rows=1), *tags)
    first = BATCHES[0]
    assert stage.source.told == [({}, [], None), ({"item": {"watermark": first}}, [], first), ({}, [], None)]
    assert stage.current().batches() == BATCHES, "what was landed before is there all the same"


def test_pages_of_an_extract_that_was_cut_off_are_those_of_the_next_but_of_one_anew(stage: Stage) -> None:
    assert stage.land(file("first"))
    for tags, pages in (((), []), ((), ["1"]), ((ANEW,), [])):
        assert not stage.land(cut_off, *tags)
        assert stage.source.told[-1][1] == pages


def test_pages_of_what_was_refused_are_not_taken_for_those_of_the_next(stage: Stage) -> None:
    """They are all there, so the source would not be asked again, and be refused for ever."""
    assert stage.land(file("first" * 100))
    assert not stage.land(file("other"))
    assert stage.land(lambda work: None)
    assert stage.source.told[-1][1] == []
    assert stage.current().etag == "first"


def test_a_table_that_lost_its_rows_is_landed_in_a_run_that_says_so_and_no_other(stage: Stage) -> None:
    first, second, third = BATCHES
    assert stage.land(batch(first, rows=100))
    lost = {"rows": 0, "gone": 100, "known": 100}
    for tags in ((), (ANEW,)):
        assert not stage.land(batch(second, **lost), *tags)
        assert stage.current().batch == first
    assert stage.land(batch(second, **lost), ANEW, ACCEPT_SHRUNK)
    assert stage.current().batch == second
    assert not stage.land(batch(third, **lost))
