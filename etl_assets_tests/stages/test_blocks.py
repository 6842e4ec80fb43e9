"""A step that makes blocks: what it has made is published whatever comes of others, and what is lost made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import polars as pl
import pytest

from etl_assets.stages.blocks import BlockStep
from etl_assets.storage.configured import lake
from etl_assets.storage.table import Column, Part, Partitioning, Publication, Table
from etl_assets_tests.house import ephemeral

TABLE = Table(
    "refined", "numbers", (Column("id", "bigint", nullable=False),), primary_key=("id",),
    partitioning=Partitioning("id", "block"),
)  # fmt: skip
BLOCKS = [f"{block:012d}" for block in range(0, 300_000, 100_000)]


@pytest.fixture
def instance(warehouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("ETL_WAREHOUSE_URL", warehouse_url)
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    with ephemeral() as made:
        yield made


def step(instance: dg.DagsterInstance) -> BlockStep:
    """A step that begins now."""
    context: Any = SimpleNamespace(instance=instance, run=SimpleNamespace(run_id="run"))
    spec: Any = SimpleNamespace(whole=False, own_table=TABLE)
    return BlockStep(context, spec)


def hold(work: BlockStep, block: str) -> None:
    """Let a step hold a block that has one row."""
    work.hold([Publication(TABLE, [Part(block, pl.DataFrame({"id": [int(block)]}), f"inputs of {block}")])])


def test_what_a_step_has_made_is_published_though_another_block_is_refused(instance: dg.DagsterInstance) -> None:
    work = step(instance)
    hold(work, BLOCKS[0])
    assert lake().partitions(TABLE).keys() == set()
    hold(work, BLOCKS[1])
    assert lake().partitions(TABLE).keys() == {BLOCKS[0]}, "the one that is held takes nobody's place"
    with pytest.raises(dg.Failure, match=r"1 blocks were refused, the others are published\. Keys from 200000: it is"):
        list(work.finish(refused={BLOCKS[2]: "it is mostly bad"}))
    assert lake().read(TABLE).frame["id"].to_list() == [0, 100_000]
    assert (work.changed, work.rows) == (2, {BLOCKS[0]: 1, BLOCKS[1]: 1})


def test_a_block_that_the_lake_has_lost_is_not_known(instance: dg.DagsterInstance) -> None:
    """It has to be made again, though the warehouse has it."""
    work = step(instance)
    for block in BLOCKS:
        hold(work, block)
    list(work.finish())
    lake().delete(lake().path(TABLE, BLOCKS[1]))
    later = step(instance)
    assert [later.made_from(block) for block in BLOCKS] == [f"inputs of {BLOCKS[0]}", None, f"inputs of {BLOCKS[2]}"]
