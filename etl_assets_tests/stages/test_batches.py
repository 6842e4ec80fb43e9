"""Raw records of batches: block by block, and a day is done with its last block only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import polars as pl

from etl_assets.sources.database import DELETED
from etl_assets.stages.batches import BATCH, _publish_day, _publish_days
from etl_assets.stages.dataset import SPECS
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import Landing, Manifest, sha256
from etl_assets.storage.table import PARTITION, SOURCE_ROW, Facts, Part, Publication

FIRST, SECOND = "2024-11-15T080000.000000Z", "2024-11-15T093000.000000Z"
BLOCKS = [f"2024-11-15_{block:012d}" for block in range(0, 700_000, 100_000)]


def landed(store: Landing, batch: str, keys: list[int], **more: str) -> str:
    """A batch with a record of each of some keys, and maybe more columns; gives the file's SHA-256."""
    assert store.lake.folder is not None
    path = store.lake.folder / store.batch_folder(batch) / "design.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{key} of {batch}" for key in keys]
    frame = pl.DataFrame(
        {"design_id": keys, "design_name": names, DELETED: False}, schema_overrides={DELETED: pl.Boolean}
    )
    frame.with_columns(pl.lit(value).alias(name) for name, value in more.items()).write_parquet(path)
    return sha256(path)


def made(store: Landing, batches: Mapping[str, str], known: Mapping[str, Facts]) -> tuple[list[list[Part]], list[str]]:
    """What the day's batches give, publication by publication, where `known` is there already; and its columns."""
    told: list[list[Part]] = []

    def hold(publications: list[Publication]) -> None:
        told.append(list(publications[0].parts))

    table = SPECS[dg.AssetKey(["raw", "totesys_design"])].table
    work: Any = SimpleNamespace(table=table, hold=hold, digest=lambda *of: " ".join(of))
    return told, _publish_day(work, store, "design", "design_id", batches, known, "the day")


def published(store: Landing, batches: Mapping[str, str], known: Mapping[str, Facts]) -> list[list[Part]]:
    """The same without the columns."""
    return made(store, batches, known)[0]


def facts(parts: list[Part]) -> dict[str, Facts]:
    return {part.key: Facts(part.key, part.frame.height, str(part.digest), part.made_from, "run", "") for part in parts}


def test_a_day_is_done_with_its_last_block_and_every_record_is_in_its_own(tmp_path: Path) -> None:
    """Killed between two publications, the rest of the day is made by the next run."""
    store = Landing(Lake(str(tmp_path / "lake")), "totesys")
    keys = [*range(650_000, 100_000, -100_000), 100_000, 199_999]
    batches = {SECOND: landed(store, SECOND, [50_000, 150_000]), FIRST: landed(store, FIRST, keys)}
    groups = published(store, batches, {})
    parts = [part for group in groups for part in group]
    assert [[part.key for part in group] for group in groups] == [BLOCKS[:5], BLOCKS[5:]]
    assert [part.made_from for part in parts] == [*[""] * 6, "the day"]
    for part in parts:
        assert part.frame[PARTITION].unique().to_list() == [part.key]
        assert {f"2024-11-15_{int(key) // 100_000 * 100_000:012d}" for key in part.frame["design_id"]} == {part.key}
    order = [part.frame.select("design_id", BATCH, SOURCE_ROW).rows() for part in parts]
    assert order[0] == [("50000", SECOND, 1)]
    assert order[1] == [("150000", FIRST, 6), ("100000", FIRST, 7), ("199999", FIRST, 8), ("150000", SECOND, 2)]
    assert sum(map(len, order)) == 10


def test_of_a_day_only_the_blocks_are_made_that_another_batch_has_records_of(tmp_path: Path) -> None:
    """And the one that said what the day was made from, which it is not made from any more."""
    store = Landing(Lake(str(tmp_path / "lake")), "totesys")
    batches = {FIRST: landed(store, FIRST, list(range(50_000, 700_000, 100_000)))}
    known = facts([part for group in published(store, batches, {}) for part in group])
    batches[SECOND] = landed(store, SECOND, [150_000])
    [parts] = published(store, batches, known)
    assert [(part.key, part.frame.height, part.made_from) for part in parts] == [
        (BLOCKS[1], 2, ""),
        (BLOCKS[6], 1, "the day"),
    ]
    del batches[SECOND]  # somebody has taken it away
    [parts] = published(store, batches, known | facts(parts))
    assert [(part.key, part.frame.height) for part in parts] == [(BLOCKS[1], 1), (BLOCKS[6], 1)]
    del batches[FIRST]
    assert [part.frame.height for group in published(store, batches, known) for part in group] == [0] * 7


def test_the_columns_of_a_day_are_those_of_all_of_its_blocks(tmp_path: Path) -> None:
    store = Landing(Lake(str(tmp_path / "lake")), "totesys")
    batches = {FIRST: landed(store, FIRST, list(range(50_000, 700_000, 100_000)))}
    batches[SECOND] = landed(store, SECOND, [150_000], note="new")
    groups, columns = made(store, batches, {})
    assert len(groups) == 2
    assert columns[-1] == "note"


def test_a_batch_that_is_another_under_its_name_is_read_again(tmp_path: Path) -> None:
    store = Landing(Lake(str(tmp_path / "lake")), "totesys")
    batches = {FIRST: landed(store, FIRST, list(range(50_000, 400_000, 100_000)))}
    known = facts([part for group in published(store, batches, {}) for part in group])
    batches[FIRST] = landed(store, FIRST, [50_000, 50_001, 150_000, 250_000])
    [parts] = published(store, batches, known)
    assert {part.key: part.frame.height for part in parts} == dict(zip(BLOCKS, [2, 1, 1, 0], strict=False))


def test_a_day_of_which_the_lake_has_lost_a_block_is_made_again_and_no_other_is(tmp_path: Path) -> None:
    store = Landing(Lake(str(tmp_path / "lake")), "totesys")
    batches = {FIRST: landed(store, FIRST, [50_000, 150_000, 250_000])}
    manifest = Manifest("", 0, ".parquet", "postgresql://a", "now", "then", None, None, files={"design": batches})
    spec = SPECS[dg.AssetKey(["raw", "totesys_design"])]

    def made(known: Mapping[str, Facts], there: set[str]) -> list[Part]:
        """What is made where the warehouse knows some blocks, of which some are in the lake."""
        told: list[Part] = []
        work: Any = SimpleNamespace(
            spec=spec,
            table=spec.table,
            hold=lambda publications: told.extend(publications[0].parts),
            digest=lambda *of: " ".join(of),
            known={key: found for key, found in known.items() if key in there},
            state=SimpleNamespace(facts=lambda table: known),
        )
        _publish_days(work, store, manifest, "design", "design_id", {"2024-11-15"})
        return told

    known = facts(made({}, set()))
    assert list(known) == BLOCKS[:3]
    assert made(known, set(BLOCKS)) == []
    for lost in BLOCKS[:3]:
        assert lost in {part.key for part in made(known, set(BLOCKS) - {lost})}
