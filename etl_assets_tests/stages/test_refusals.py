"""What is fetched and not landed: what is much less than before, by what the dataset allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.sources import Fetched, FetchedFolder, SourceRefusedError, Validators
from etl_assets.stages.dataset import SPECS
from etl_assets.stages.refusals import refuse_shrunk_tables, why_shrunk, without_shrunk_files
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import Landing, Manifest, sha256
from etl_assets_tests.house import ephemeral


@pytest.mark.parametrize(
    ("gone", "known", "rows", "is_refused"),
    [
        (30, 40, 5, True),  # most of a large one, though some are there
        (10, 10, 0, True),  # all of a small one
        (10, 10, 3, False),  # a small one whose rows are all others
        (15, 20, 0, False),
        (20, 100, 0, False),
        (30, 100, 0, False),
        (0, 0, 0, False),
    ],
)
def test_a_table_that_has_lost_most_of_its_rows(gone: int, known: int, rows: int, is_refused: bool) -> None:
    dataset = SPECS[dg.AssetKey(["landing", "totesys"])].dataset
    facts = {"design": {"deleted": 0, "known": 9, "rows": 9}, "sold": {"deleted": gone, "known": known, "rows": rows}}
    fetched = Fetched(Path(), "postgresql://a", Validators(), facts=facts)
    if is_refused:
        with pytest.raises(SourceRefusedError, match=f"table sold: {gone} of {known} rows are gone"):
            refuse_shrunk_tables(dataset, fetched)
    else:
        refuse_shrunk_tables(dataset, fetched)
    refuse_shrunk_tables(replace(dataset, max_shrink=1), fetched)


@pytest.mark.parametrize(
    ("max_shrink", "size", "is_taken"),
    [(0.5, 50, True), (0.5, 49, False), (0.2, 79, False), (0.2, 80, True), (0.9, 11, True), (0.9, 9, False)],
)
def test_a_file_may_shrink_by_what_its_dataset_allows(
    tmp_path: Path, max_shrink: float, size: int, is_taken: bool
) -> None:
    """Whoever raises it for one run is heard."""
    spec = SPECS[dg.AssetKey(["landing", "us_counties"])]
    spec = replace(spec, dataset=replace(spec.dataset, max_shrink=max_shrink))
    store, path = Landing(Lake(str(tmp_path / "lake")), "files"), tmp_path / "file"

    def manifest() -> Manifest:
        return Manifest(sha256(path), path.stat().st_size, ".csv", "http://a", "now", "then", None, None)

    path.write_bytes(b"a" * 100)
    store.land(path, known := manifest())
    path.write_bytes(b"b" * size)
    with ephemeral() as instance:
        context: Any = dg.build_asset_context(instance=instance)
        assert (why_shrunk(context, spec, store, manifest(), known) is None) == is_taken
    fetched = FetchedFolder({"one": Fetched(path, "/one", Validators())}, {"two": "why"}, "/", Validators())
    found = without_shrunk_files(spec.dataset, store, replace(known, members={"one": known.sha256}), fetched)
    assert (found.files.keys(), found.refused.keys()) == (({"one"}, {"two"}) if is_taken else (set(), {"one", "two"}))


WEDNESDAY, FRIDAY = "Wed, 05 Mar 2025 00:00:00 GMT", "Fri, 07 Mar 2025 00:00:00 GMT"
LESS, MORE = '{"of": ["", "http://a", "", "less", ""]}', '{"of": ["", "http://a", "", "more", ""]}'
OF_AN_EARLIER_RELEASE = '{"of": ["", "http://a more", ""]}'


@pytest.mark.parametrize(
    ("now", "before", "is_taken"),
    [
        ({"last_modified": WEDNESDAY}, {"last_modified": FRIDAY}, True),
        ({"last_modified": FRIDAY}, {"last_modified": FRIDAY}, False),
        ({"last_modified": FRIDAY}, {"last_modified": WEDNESDAY}, False),
        ({"last_modified": None}, {"last_modified": WEDNESDAY}, False),
        ({"etag": LESS}, {"etag": MORE}, True),
        ({"etag": MORE}, {"etag": MORE}, False),
        ({"etag": LESS}, {"etag": OF_AN_EARLIER_RELEASE}, False),
    ],
)
def test_a_file_may_be_smaller_if_it_is_older_or_was_asked_for_otherwise(
    tmp_path: Path, now: dict[str, Any], before: dict[str, Any], is_taken: bool
) -> None:
    """What merely does not say that it is newer is a fragment all the same."""
    large = Manifest("large", 100, ".csv", "http://a", "now", "then", None, None)
    small = replace(large, sha256="small", size=10)
    store = Landing(Lake(str(tmp_path / "lake")), "us_counties")
    with ephemeral() as instance:
        context: Any = dg.build_asset_context(instance=instance)
        spec = SPECS[dg.AssetKey(["landing", "us_counties"])]
        why = why_shrunk(context, spec, store, replace(small, **now), replace(large, **before))
    assert (why is None) == is_taken
