"""Raw records of a source database's table, from every batch that was landed, by day and by block of keys."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from etl_assets.quality.contract import Contract
from etl_assets.quality.drift import column_drift, columns_check, columns_of
from etl_assets.sources.database import DELETED
from etl_assets.stages.asset import table_asset
from etl_assets.stages.blocks import BlockStep, block_of, in_groups
from etl_assets.stages.dataset import Dataset, Input, declare
from etl_assets.storage.configured import landing_store
from etl_assets.storage.frames import empty
from etl_assets.storage.landing import Landing, Manifest
from etl_assets.storage.table import (
    PARTITION,
    SOURCE_ROW,
    SOURCE_SHA256,
    Column,
    Facts,
    Part,
    Partitioning,
    Publication,
    Table,
)

BATCH = "_batch"
_BOOKKEEPING = (
    Column(PARTITION, "text", "Day of the batch, and block of keys, that the record belongs to", nullable=False),
    Column(BATCH, "text", "Batch that the record came with: the moment (UTC) of the source's snapshot", nullable=False),
    Column(SOURCE_ROW, "bigint", "Number of the record in the batch's file, from 1", nullable=False),
    Column(DELETED, "boolean", "Whether the record says that the row was deleted; it then has only the key", False),
    Column(SOURCE_SHA256, "text", "SHA-256 of the batch's file", nullable=False),
)


def raw_batches(dataset: Dataset, landed: dg.AssetsDefinition, contract: type[Contract]) -> dg.AssetsDefinition:
    """The raw asset of a contract's table; each run reads the batches of the days that it is run for."""
    name = contract.place().table
    source_table, (key,) = name.removeprefix(f"{dataset.name}_"), contract.place().key
    declared = [Column(c, "text", "As the source has it") for c in contract.columns()]
    table = Table(
        "raw", name, (*declared, *_BOOKKEEPING), f"{dataset.title}: every record of {source_table} that was landed",
        partitioning=Partitioning(PARTITION, "value"),
    )  # fmt: skip
    landed_by_day = Input(landed.key, None, by_partition=True, source_table=source_table)
    spec = declare(dataset, table, contract, {"landed": landed_by_day}, dataset.partitions)
    drift_check = dg.AssetCheckSpec("columns", asset=spec.key, description="The columns are those of the last batch")

    @table_asset(spec, [drift_check])
    def step(context: dg.AssetExecutionContext) -> Iterator[Any]:
        store = landing_store(landed.key.path[-1])
        manifest = store.current()
        if manifest is None:
            raise dg.Failure(
                f"Nothing has been landed for {dataset.name}: materialize landing/{dataset.name} first.",
                allow_retries=False,
            )
        work = BlockStep(context, spec)
        columns = _publish_days(work, store, manifest, source_table, key, set(context.partition_keys))
        last = context.instance.get_latest_materialization_event(spec.key)
        yield from work.finish(
            columns_check(column_drift(columns, last) if columns else []),
            columns=columns or columns_of(last) or list(contract.columns()),
        )

    return step


def _publish_days(
    work: BlockStep, store: Landing, manifest: Manifest, source_table: str, key: str, wanted: Set[str]
) -> list[str]:
    """Publish the batches of some days, day by day and block by block; return the columns of the last day."""
    days: dict[str, dict[str, str]] = defaultdict(dict)
    for batch, sha256 in manifest.versions(source_table).items():
        days[work.spec.partition_of(batch)][batch] = sha256
    known: dict[str, dict[str, Facts]] = defaultdict(dict)
    for partition, facts in work.known.items():
        known[work.spec.partition_of(partition)][partition] = facts
    lost = {work.spec.partition_of(partition) for partition in work.state.facts(work.table).keys() - work.known.keys()}
    columns: list[str] = []
    made_from = work.spec.made_from(
        wanted & (days.keys() | known.keys() | lost), {"landed": manifest.versions(source_table)}
    )
    for day in sorted(made_from):
        if day in lost or all(facts.made_from != made_from[day] for facts in known[day].values()):
            columns = _publish_day(work, store, source_table, key, days[day], known[day], made_from[day]) or columns
    return columns


def _publish_day(
    work: BlockStep,
    store: Landing,
    source_table: str,
    key: str,
    batches: Mapping[str, str],
    known: Mapping[str, Facts],
    made_from: str,
) -> list[str]:
    """Publish a day's blocks whose rows come from other batches than before; return the columns of their records."""
    columns: dict[str, None] = {}
    with ExitStack() as files:
        paths = {
            b: files.enter_context(store.open_batched(b, source_table, sha256)) for b, sha256 in sorted(batches.items())
        }
        rows_of: dict[str, list[str]] = defaultdict(list)
        for batch, path in paths.items():
            for partition in _partitions(path, key, batch):
                rows_of[partition].append(batch)
        # Landed files never change: which of them have rows of a block determines what the block holds.
        content = {p: work.digest(p, *(f"{b} {batches[b]}" for b in rows_of[p])) for p in {*rows_of, *known}}
        # The last block of a day carries what the day was made from; the one that carried it before gives it up.
        changed = sorted(
            p for p in content if p not in known or known[p].content_hash != content[p] or known[p].made_from
        )
        groups = list(in_groups(changed or sorted(content)[:1]))
        for number, group in enumerate(groups, 1):
            needed = dict.fromkeys(b for p in group for b in rows_of[p])
            found = [_records(paths[b], key, b, batches[b], group) for b in needed]
            frame = pl.concat([_nothing(work.table), *found], how="diagonal_relaxed").sort(BATCH, SOURCE_ROW)
            own = [c for c in frame.columns if not c.startswith("_")]
            columns |= dict.fromkeys(own)
            table = work.table.widened(own)
            cut = {str(name[0]): part for name, part in frame.partition_by(PARTITION, as_dict=True).items()}
            # The day is done only with its last block.
            of = {group[-1]: made_from} if number == len(groups) else {}
            parts = [Part(p, cut.get(p, frame.clear()), of.get(p, ""), content[p]) for p in group]
            work.hold([Publication(table, parts)])
    return list(columns)


def _partitions(path: Path, key: str, batch: str) -> list[str]:
    """The partitions that a batch's file has rows of."""
    blocks = pl.scan_parquet(path).select(Partitioning(key, "block").key().unique().sort()).collect()
    return [f"{batch[:10]}_{block}" for block in blocks.to_series()]


def _records(path: Path, key: str, batch: str, sha256: str, partitions: Sequence[str]) -> pl.DataFrame:
    """The records of a batch's file that belong to some partitions, as text, with their bookkeeping."""
    windows = [Partitioning(key, "block").window(block_of(p)) for p in partitions]
    rows = pl.scan_parquet(path, row_index_name=SOURCE_ROW, row_index_offset=1)
    names = [c for c in rows.collect_schema().names() if not c.startswith("_")]
    # The span first: it tells the reader which parts of the file it need not read.
    span = pl.col(key).is_between(min(first for first, _ in windows), max(last for _, last in windows))
    partition = pl.lit(f"{batch[:10]}_") + Partitioning(key, "block").key()
    return (
        rows.filter(span)
        .with_columns(partition.alias(PARTITION))
        .filter(pl.col(PARTITION).is_in(list(partitions)))
        .select(
            *(pl.col(c).cast(pl.String) for c in names),
            PARTITION,
            pl.lit(batch).alias(BATCH),
            pl.col(SOURCE_ROW).cast(pl.Int64),
            DELETED,
            pl.lit(sha256).alias(SOURCE_SHA256),
        )
        .collect()
    )


def _nothing(table: Table) -> pl.DataFrame:
    return empty(table, [c.name for c in table.columns])
