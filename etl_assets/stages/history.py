"""Tables of a source database: every record that was landed of them, their history, and their current state.

A table that is read in batches only ever grows, and may be large. So all three are cut into blocks of keys, and what
has to be made again is found block by block: a batch of a thousand rows costs the blocks that they are in, in memory
as in time. Each is made of the set of batches there is, whatever the order in which they came: a batch twice, or one of
last week today, gives the same tables.
"""

import hashlib
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from etl_assets.quality.audit import PROBLEMS, Audit, audit, unreadable
from etl_assets.quality.audit import table as ui_table
from etl_assets.quality.contract import Contract, column, storage_table, ui_schema
from etl_assets.quality.drift import column_drift
from etl_assets.quality.quarantine import quarantine_table, quarantined
from etl_assets.quality.readings import of_this_era
from etl_assets.sources.database import DELETED
from etl_assets.stages.conditions import when_out_of_date
from etl_assets.stages.dataset import SPECS, Dataset, Input, Spec, code_version, remember
from etl_assets.stages.profile import preview
from etl_assets.stages.staleness import State
from etl_assets.storage.configured import landing_store, publisher
from etl_assets.storage.frames import empty
from etl_assets.storage.lake import Facts
from etl_assets.storage.landing import Landing, Manifest
from etl_assets.storage.publish import Publisher
from etl_assets.storage.table import (
    PARTITION,
    SOURCE_ROW,
    WHOLE,
    Column,
    Part,
    Partitioning,
    Publication,
    Table,
)

BATCH = "_batch"
_MOMENT = "%Y-%m-%dT%H%M%S%.fZ"  # sources.database.BATCH_FORMAT, as polars spells it
_RAW = (
    Column(PARTITION, "text", "Day of the batch, and block of keys, that the record belongs to", nullable=False),
    Column(BATCH, "text", "Batch that the record came with: the moment (UTC) of the source's snapshot", nullable=False),
    Column(SOURCE_ROW, "bigint", "Number of the record in the batch's file, from 1", nullable=False),
    Column(DELETED, "boolean", "Whether the record says that the row is gone; only its key is there then", False),
    Column("_source_sha256", "text", "SHA-256 of the batch's file", nullable=False),
)
#: Blocks that are made at once: memory is that of half a million rows, however large the table.
_AT_ONCE = 5
_TIMES = ("valid_from", "valid_to", "is_current")


@dataclass(frozen=True)
class Versioned:
    """The assets of one table of a source database."""

    raw: dg.AssetsDefinition
    history: dg.AssetsDefinition
    current: dg.AssetsDefinition


def versioned(
    dataset: Dataset, landed: dg.AssetsDefinition, contracts: Sequence[type[Contract]]
) -> dict[type[Contract], Versioned]:
    """For each contract of a table's current state: its raw records, its history and its current state.

    The raw records are partitioned by the day of their batch (`Dataset.partitions`), history and current state by
    blocks of keys: a version ends when another comes, so no day of theirs is ever done.

    A contract is of the table `<dataset>_<name>`, where `<name>` is the source's, has one column of whole numbers as
    its key, and stands after those that its columns refer to (`column(…, references=…)`). A version that breaks the
    contract, or refers to a key that was never seen, is quarantined: the version before stays.
    """
    # Stage after stage: tables that do not depend on each other are made in one run.
    raw = {contract: _raw(dataset, landed, contract) for contract in contracts}
    history: dict[type[Contract], dg.AssetsDefinition] = {}
    for contract in contracts:
        references = {name: (of, history[of]) for name, of in _references(contract).items()}
        history[contract] = _history(dataset, contract, raw[contract], references)
    return {of: Versioned(raw[of], history[of], _current(dataset, of, history[of])) for of in contracts}


def _references(contract: type[Contract]) -> dict[str, type[Contract]]:
    found = {name: (declared.metadata or {}).get("references") for name, declared in contract.columns().items()}
    return {name: of for name, of in found.items() if of is not None}


@dataclass
class _Made:
    """What one step has come to so far."""

    partitions: int = 0
    changed: int = 0
    rows_in: int = 0
    quarantined: int = 0
    merged: int = 0
    rows_out: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    failures: Any = None


@dataclass(frozen=True)
class _Step:
    """One run of one of these stages: which partitions are out of date, and what comes of making them."""

    context: dg.AssetExecutionContext
    spec: Spec
    table: Table
    made: _Made = field(default_factory=_Made)
    held: list[Publication] = field(default_factory=list)
    #: Rows of the partitions that have been made.
    rows: dict[str, int] = field(default_factory=dict)

    @cached_property
    def publisher(self) -> Publisher:
        """What the step publishes to."""
        return publisher()

    @cached_property
    def state(self) -> State:
        """What was published when the step began."""
        return State(self.context.instance)

    @cached_property
    def versions(self) -> dict[str, dict[str, str]]:
        """The content of every partition of every input."""
        return {name: self.state.versions(source) or {} for name, source in self.spec.inputs.items()}

    @cached_property
    def known(self) -> dict[str, Facts]:
        """The bookkeeping of every partition that is in the warehouse and in the lake."""
        there = self.publisher.lake.partitions(self.table)
        return {key: facts for key, facts in self.state.facts(self.table).items() if key in there}

    def made_from(self, partition: str) -> str | None:
        """What a partition was made from; None if it has to be made in any case."""
        return self.known[partition].made_from if partition in self.known else None

    def digest(self, *parts: str) -> str:
        """Says what a partition is made from: the declaration, and what is given."""
        lines = (self.table.fingerprint, self.spec.code_version, *parts)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish partitions, once there are more: what comes last is published with the table as a whole."""
        self._flush()
        self.held.extend(publications)

    def _flush(self) -> None:
        if self.held:
            done = self.publisher.publish(self.held, self.context.run.run_id)[self.table.full_name]
            self.rows.update({part.key: part.rows for part in done})
            self.made.partitions += len(done)
            self.made.changed += sum(part.changed for part in done)
            self.held.clear()

    def finish(self, *checks: dg.AssetCheckResult, **metadata: Any) -> Iterator[Any]:
        """Record the table as a whole, if it is made as one, unless a partition was refused; then the step fails."""
        yield from checks
        if self.made.refused:
            self._flush()
            key, why = next(iter(self.made.refused.items()))
            raise dg.Failure(
                f"{self.table.full_name}: {len(self.made.refused)} blocks were refused, the others are published. "
                f"Keys from {int(key)}: {why}",
                metadata={"failure_cases": self.made.failures},
                allow_retries=False,
            )
        if self.spec.whole:
            whole = self.spec.made_whole_from(self.versions)
            last = next((p for p in self.held if p.table.full_name == self.table.full_name), None)
            if last is not None:
                self.held.remove(last)
            self.held.insert(0, replace(last or Publication(self.table, []), whole=whole))
        self._flush()
        rows = {key: facts.rows for key, facts in self.known.items() if key != WHOLE} | self.rows
        first = self.publisher.lake.read(self.table, [min(rows)] if rows else []).frame
        yield dg.MaterializeResult(
            metadata={
                **({"dagster/row_count": sum(rows.values())} if self.spec.whole else {}),
                "blocks_made": self.made.partitions,
                "blocks_changed": self.made.changed,
                "blocks_unchanged": len(rows) - self.made.changed,
                "preview": preview(first.select(c for c in first.columns if not c.startswith("_"))),
                **metadata,
            }
        )


def _asset(
    dataset: Dataset, spec: Spec, checks: Sequence[dg.AssetCheckSpec], **options: Any
) -> Callable[[Callable[[dg.AssetExecutionContext], Iterator[Any]]], dg.AssetsDefinition]:
    """What the three stages have in common as assets."""
    assert spec.table is not None
    metadata = options.pop("metadata", {})
    if spec.partitions is not None:
        policy = dg.BackfillPolicy.multi_run(dataset.batch)
        options |= {"partitions_def": spec.partitions, "backfill_policy": policy}
    return dg.asset(
        key=spec.key,
        deps=[source.key for source in spec.inputs.values()],
        group_name=dataset.name,
        description=spec.table.description,
        metadata=dataset.metadata() | {"dagster/table_name": spec.table.full_name} | metadata,
        owners=[dataset.owner],
        kinds={"parquet", "postgres"},
        check_specs=checks,
        automation_condition=when_out_of_date(),
        code_version=spec.code_version,
        **options,
    )


# Raw -----------------------------------------------------------------------------------------------------


def _raw(dataset: Dataset, landed: dg.AssetsDefinition, contract: type[Contract]) -> dg.AssetsDefinition:
    name = contract.place().table
    member, (key,) = name.removeprefix(f"{dataset.name}_"), contract.place().key
    declared = [Column(c, "text", "As the source has it") for c in contract.columns()]
    spec = remember(
        Spec(
            dg.AssetKey(["raw", name]),
            dataset,
            Table("raw", name, (*declared, *_RAW), f"{dataset.title}: every record of {member} that was landed",
                  partitioning=Partitioning(PARTITION, "value")),
            inputs={"landed": Input(landed.key, None, by_partition=True, member=member)},
            partitions=dataset.partitions,
            code_version=code_version(contract),
        )
    )  # fmt: skip
    drift_check = dg.AssetCheckSpec("columns", asset=spec.key, description="The columns are those of the last batch")

    @_asset(dataset, spec, [drift_check])
    def step(context: dg.AssetExecutionContext) -> Iterator[Any]:
        assert spec.table is not None
        store = landing_store(landed.key.path[-1])
        manifest = store.current()
        if manifest is None:
            raise dg.Failure(f"Nothing has been landed for {dataset.name}: materialize it first.", allow_retries=False)
        work = _Step(context, spec, spec.table)
        columns = _land_days(work, store, manifest, member, key, set(context.partition_keys))
        drift = column_drift(columns, context.instance.get_latest_materialization_event(spec.key)) if columns else []
        seen = columns or list(contract.columns())
        yield from work.finish(
            dg.AssetCheckResult(
                passed=not drift,
                check_name="columns",
                severity=dg.AssetCheckSeverity.WARN,
                description="; ".join(f"{row['column']} is {row['change']}" for row in drift) or None,
                metadata={"drift": ui_table(drift)},
            ),
            columns=seen,
        )

    return step


def _land_days(work: _Step, store: Landing, manifest: Manifest, member: str, key: str, wanted: Set[str]) -> list[str]:
    """Publish what the batches of some days have, day by day and block by block; gives the columns of the newest."""
    days: dict[str, dict[str, str]] = defaultdict(dict)
    for batch, sha256 in manifest.versions(member).items():
        days[work.spec.partition_of(batch)][batch] = sha256
    known: dict[str, dict[str, Facts]] = defaultdict(dict)
    for partition, facts in work.known.items():
        known[work.spec.partition_of(partition)][partition] = facts
    lost = {work.spec.partition_of(partition) for partition in work.state.facts(work.table).keys() - work.known.keys()}
    columns: list[str] = []
    made_from = work.spec.made_from(wanted & (days.keys() | known.keys() | lost), {"landed": manifest.versions(member)})
    for day in sorted(made_from):
        if day in lost or all(facts.made_from != made_from[day] for facts in known[day].values()):
            columns = _land_day(work, store, member, key, days[day], known[day], made_from[day]) or columns
    return columns


def _land_day(
    work: _Step,
    store: Landing,
    member: str,
    key: str,
    batches: Mapping[str, str],
    known: Mapping[str, Facts],
    made_from: str,
) -> list[str]:
    """Publish the blocks of a day that other batches have rows of than before; gives the columns of the newest."""
    columns: list[str] = []
    with ExitStack() as files:
        paths = {b: files.enter_context(store.open_member(b, member, sha256)) for b, sha256 in sorted(batches.items())}
        rows_of: dict[str, list[str]] = defaultdict(list)
        for batch, path in paths.items():
            for partition in _partitions(path, key, batch):
                rows_of[partition].append(batch)
        # Landed files never change: which of them have rows of a block says what it holds.
        content = {p: work.digest(p, *(f"{b} {batches[b]}" for b in rows_of[p])) for p in {*rows_of, *known}}
        changed = sorted(p for p in content if p not in known or known[p].content_hash != content[p])
        groups = list(_groups(changed or sorted(content)[:1]))
        for number, group in enumerate(groups, 1):
            needed = dict.fromkeys(b for p in group for b in rows_of[p])
            found = [_records(paths[b], key, b, batches[b], group) for b in needed]
            frame = pl.concat([_nothing(work.table), *found], how="diagonal_relaxed").sort(BATCH, SOURCE_ROW)
            columns = [c for c in frame.columns if not c.startswith("_")]
            table = _widened(work.table, columns)
            cut = {str(name[0]): part for name, part in frame.partition_by(PARTITION, as_dict=True).items()}
            # The day is as it should be once its last blocks are.
            of = made_from if number == len(groups) else ""
            parts = [Part(p, cut.get(p, frame.clear()), of, content[p]) for p in group]
            work.publish([Publication(table, parts)])
    return columns


def _partitions(path: Path, key: str, batch: str) -> list[str]:
    """The partitions that a batch's file has rows of."""
    blocks = pl.scan_parquet(path).select(Partitioning(key, "block").key().unique().sort()).collect()
    return [f"{batch[:10]}_{block}" for block in blocks.to_series()]


def _records(path: Path, key: str, batch: str, sha256: str, partitions: Sequence[str]) -> pl.DataFrame:
    """The records of a batch's file that belong to some partitions, as text, with their bookkeeping."""
    windows = [Partitioning(key, "block").window(_block_of(p)) for p in partitions]
    rows = pl.scan_parquet(path, row_index_name=SOURCE_ROW, row_index_offset=1)
    names = [c for c in rows.collect_schema().names() if not c.startswith("_")]
    # The span first: it tells the reader which parts of the file it need not read.
    span = (pl.col(key) >= min(first for first, _ in windows)) & (pl.col(key) < max(after for _, after in windows))
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
            pl.lit(sha256).alias("_source_sha256"),
        )
        .collect()
    )


def _nothing(table: Table) -> pl.DataFrame:
    return empty(table, [c.name for c in table.columns])


def _widened(table: Table, columns: Sequence[str]) -> Table:
    """The raw table with the columns that the batch has beyond the declared ones."""
    own = {c.name: c for c in table.columns}
    found = [own.get(c, Column(c, "text", "As the source has it")) for c in columns]
    return Table(table.stage, table.name, (*found, *_RAW), table.description, partitioning=table.partitioning)


# History -------------------------------------------------------------------------------------------------


def _history_of(contract: type[Contract]) -> type[Contract]:
    """The contract of a table's history: its versions, each with the time in which it was the current one."""
    place, moment = contract.place(), pl.Datetime("us", "UTC")
    body = {
        "__doc__": f"{contract.__doc__} Every version that was ever seen, with the time in which it was current.",
        "__module__": contract.__module__,
        "__annotations__": {"valid_from": moment, "valid_to": moment, "is_current": pl.Boolean},
        "valid_from": column("Moment of the first batch that has this version", unit="UTC"),
        "valid_to": column("Moment of the batch that has another, or says it is gone", unit="UTC", nullable=True),
        "is_current": column("Whether it is the version that the source had last"),
    }
    options = {
        "stage": "refined",
        "table": f"{place.table}_history",
        "key": [*place.key, "valid_from"],
        "partitioning": Partitioning(place.key[0], "block"),
    }
    name = f"{contract.__name__}History"
    return types.new_class(name, (contract,), options, lambda namespace: namespace.update(body))


def _history(
    dataset: Dataset,
    contract: type[Contract],
    raw: dg.AssetsDefinition,
    references: Mapping[str, tuple[type[Contract], dg.AssetsDefinition]],
) -> dg.AssetsDefinition:
    versions = _history_of(contract)
    table = storage_table(versions, with_source=True)
    inputs = {"raw": _input(raw)} | {name: _input(of) for name, (_, of) in references.items()}
    key, version = dg.AssetKey([table.stage, table.name]), code_version(contract)
    spec = remember(Spec(key, dataset, table, inputs=inputs, code_version=version))
    checks = [
        dg.AssetCheckSpec(
            "contract", asset=spec.key, blocking=True,
            description="Versions keep the contract and refer to what there is, or few enough do not",
        ),
        dg.AssetCheckSpec("balance", asset=spec.key, description="Records = versions + quarantined + merged"),
    ]  # fmt: skip

    @_asset(dataset, spec, checks, metadata={"dagster/column_schema": ui_schema(versions)})
    def step(context: dg.AssetExecutionContext) -> Iterator[Any]:
        work = _Step(context, spec, table)
        found, source = work.versions["raw"], SPECS[raw.key].table
        assert source is not None
        partitions: dict[str, list[str]] = defaultdict(list)
        for partition in sorted(found):
            partitions[_block_of(partition)].append(partition)
        keys = {name: _keys(*of) for name, of in references.items()}
        seen = [f"{name} {hashlib.sha256(known.to_numpy().tobytes()).hexdigest()}" for name, known in keys.items()]
        # A block all of whose versions are good stays so when there are more keys that they could refer to.
        clean = {k: work.digest(*(f"{p} {found[p]}" for p in names)) for k, names in partitions.items()}
        stained = {k: work.digest(digest, *seen) for k, digest in clean.items()}
        stale = [k for k in clean if work.made_from(k) not in (clean[k], stained[k])]
        stale += work.known.keys() - clean.keys() - {WHOLE}
        for group in _groups(sorted(stale)):
            records = work.publisher.lake.read(source, [p for key in group for p in partitions.get(key, [])]).frame
            digests = {key: (clean.get(key, ""), stained.get(key, "")) for key in group}
            _publish_versions(work, versions, records, keys, digests)
        made = work.made
        facts = {"quarantined": made.quarantined, "merged": made.merged}
        yield from work.finish(*_judged(made), **facts)

    return step


def _publish_versions(
    work: _Step,
    contract: type[Contract],
    records: pl.DataFrame,
    keys: Mapping[str, pl.Series],
    digests: Mapping[str, tuple[str, str]],
) -> None:
    """Publish the history of some blocks, and what was kept out of it; blocks with too much of that are refused."""
    key, made, bound = contract.place().key[0], work.made, work.spec.dataset.bound
    found, gone = _observed(records, contract, keys)
    if found.errors:
        message = f"{work.table.full_name}: {'; '.join(found.errors)}. Nothing was written."
        raise dg.Failure(message, allow_retries=False)
    block = Partitioning(key, "block").key().alias(PARTITION)
    versions, merged = _chained(found.good, gone, key)
    versions = versions.with_columns(block)
    rejected = found.rejected.with_columns(block)
    kept_out = quarantined(found, records.unique(["_source_sha256", SOURCE_ROW]), rejected[PARTITION])
    # Only what was seen last of a key is judged: what has been mended since is kept out, and harms nobody.
    last = records.select(pl.col(key).cast(pl.Int64), BATCH).group_by(key).agg(pl.col(BATCH).max()).with_columns(block)
    rows_of = dict(last.group_by(PARTITION).len().iter_rows())
    bad = dict(rejected.join(last, on=[key, BATCH], how="semi").group_by(PARTITION).len().iter_rows())
    parts, others, was_refused = [], [], bool(made.refused)
    for name, (clean, stained) in digests.items():
        out = kept_out.filter(pl.col(PARTITION) == name)
        if bound.exceeded(bad.get(name, 0), rows_of.get(name, 0)):
            made.refused[name] = (
                f"{bad[name]} of {rows_of[name]} rows break the contract: more than {bound.count} rows and "
                f"{bound.share:.0%}, such as {out['reason'][-1]}. Nothing was written, the last good state stays."
            )
            continue
        digest = stained if out.height else clean
        own = versions.filter(pl.col(PARTITION) == name).sort(contract.place().key)
        parts.append(Part(name, own.select([c.name for c in work.table.columns]), digest))
        others.append(Part(name, out, digest))
    made.rows_in += records.height
    made.rows_out += versions.height
    made.quarantined += rejected.height
    made.merged += merged
    if found.failures.height and not was_refused:  # the cases that are shown are of the block that is named
        made.failures = found.examples()
    quarantine = quarantine_table(work.table.name.removesuffix("_history"))
    work.publish([Publication(work.table, parts), Publication(quarantine, others)])


def _observed(
    records: pl.DataFrame, contract: type[Contract], keys: Mapping[str, pl.Series]
) -> tuple[Audit, pl.DataFrame]:
    """What was seen of every key in every batch, audited; and when keys were seen to be gone."""
    declared = [name for name in contract.columns() if name not in _TIMES]
    lacking = [pl.lit(None, pl.String).alias(name) for name in declared if name not in records.columns]
    records = records.with_columns(lacking).with_columns(
        valid_from=pl.col(BATCH).str.to_datetime(_MOMENT, time_unit="us").dt.replace_time_zone("UTC")
    )
    types_of = {name: found.dtype.type for name, found in contract.columns().items()}
    readings = {name: (name, _reading(name, types_of[name])) for name in declared}
    typed = records.filter(~pl.col(DELETED)).select(
        *(reading.alias(name) for name, (_, reading) in readings.items()),
        "valid_from",
        pl.lit(None, types_of["valid_to"]).alias("valid_to"),
        pl.lit(True).alias("is_current"),
        unreadable(readings),
        BATCH,
        "_source_sha256",
        SOURCE_ROW,
    )
    dangling = [
        pl.when(pl.col(name).is_not_null() & ~pl.col(name).is_in(known.implode())).then(
            pl.struct(check=pl.lit("references"), column=pl.lit(name), value=pl.col(name).cast(pl.String))
        )
        for name, known in keys.items()
    ]
    if dangling:
        typed = typed.with_columns(pl.col(PROBLEMS).list.concat(pl.concat_list(dangling).list.drop_nulls()))
    key = contract.place().key[0]
    gone = records.filter(pl.col(DELETED)).select(pl.col(key).cast(types_of[key]), "valid_from", DELETED)
    return audit(typed, contract), gone


def _reading(name: str, dtype: pl.DataType) -> pl.Expr:
    """A value as the database writes it, in the column's type; null where it cannot be read exactly."""
    text = pl.col(name)
    if isinstance(dtype, pl.Decimal):
        exact = text.str.contains(rf"^-?\d+(\.\d{{0,{dtype.scale}}}0*)?$")
        return pl.when(exact).then(text).cast(dtype, strict=False)
    if dtype == pl.Boolean:
        return text.replace_strict({"t": True, "f": False}, default=None, return_dtype=pl.Boolean)
    if dtype == pl.Date:
        return of_this_era(text.str.to_date("%Y-%m-%d", strict=False))
    if dtype == pl.Datetime:
        return of_this_era(text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False))
    return text if dtype == pl.String else text.cast(dtype, strict=False)


def _chained(good: pl.DataFrame, gone: pl.DataFrame, key: str) -> tuple[pl.DataFrame, int]:
    """The versions of every key: what was seen again is one with what was seen before, and ends what differs.

    Also, how many records went into others: those seen again, and those that say that a key is gone.
    """
    seen = pl.concat([good.with_columns(pl.lit(False).alias(DELETED)), gone], how="diagonal").sort(key, "valid_from")
    telling = [c for c in seen.columns if c not in (*_TIMES, BATCH, "_source_sha256", SOURCE_ROW)]
    same = pl.all_horizontal(pl.col(c).eq_missing(pl.col(c).shift()) for c in telling)
    merged = seen.select((same | pl.col(DELETED)).sum()).item()
    until = pl.when(pl.col(key) == pl.col(key).shift(-1)).then(pl.col("valid_from").shift(-1))
    versions = seen.filter(~same).with_columns(valid_to=until)
    versions = versions.with_columns(is_current=pl.col("valid_to").is_null())
    return versions.filter(~pl.col(DELETED)).drop(DELETED), merged


def _judged(made: _Made) -> Iterator[dg.AssetCheckResult]:
    why = next(iter(made.refused.values()), None)
    facts: dict[str, Any] = {"versions": made.rows_out, "quarantined": made.quarantined}
    if made.failures is not None:
        facts["failure_cases"] = made.failures
    yield dg.AssetCheckResult(passed=why is None, check_name="contract", description=why, metadata=facts)
    lost = made.rows_in - made.rows_out - made.quarantined - made.merged
    yield dg.AssetCheckResult(
        passed=lost == 0,
        check_name="balance",
        description=f"{lost} records are unaccounted for" if lost else None,
        metadata={"rows_in": made.rows_in, "rows_out": made.rows_out, "quarantined": made.quarantined,
                  "merged": made.merged},
    )  # fmt: skip


# Current state -------------------------------------------------------------------------------------------


def _current(dataset: Dataset, contract: type[Contract], history: dg.AssetsDefinition) -> dg.AssetsDefinition:
    table = storage_table(contract, with_source=True)
    inputs = {"history": _input(history)}
    key, version = dg.AssetKey([table.stage, table.name]), code_version(contract)
    spec = remember(Spec(key, dataset, table, inputs=inputs, code_version=version))

    @_asset(dataset, spec, [], metadata={"dagster/column_schema": ui_schema(contract)})
    def step(context: dg.AssetExecutionContext) -> Iterator[Any]:
        work, source = _Step(context, spec, table), SPECS[history.key].table
        assert source is not None
        wanted = {key: work.digest(found) for key, found in work.versions["history"].items()}
        stale = [key for key in {*wanted, *work.known} - {WHOLE} if work.made_from(key) != wanted.get(key)]
        columns = [c.name for c in table.columns]
        for group in _groups(sorted(stale)):
            frames = work.publisher.lake.partition_frames(source, group)
            parts = [
                Part(key, frame.filter(pl.col("is_current")).select(columns), wanted.get(key, ""))
                for key, frame in frames.items()
            ]
            work.publish([Publication(table, parts)])
        yield from work.finish()

    return step


# Blocks --------------------------------------------------------------------------------------------------


def _input(asset: dg.AssetsDefinition) -> Input:
    return Input(asset.key, SPECS[asset.key].table, by_partition=False)


def _groups(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(keys), _AT_ONCE):
        yield keys[start : start + _AT_ONCE]


def _keys(contract: type[Contract], history: dg.AssetsDefinition) -> pl.Series:
    """Every key of a table that was ever seen."""
    table, key = SPECS[history.key].table, contract.place().key[0]
    assert table is not None
    return publisher().lake.read(table, columns=[key]).frame[key].unique().sort()


def _block_of(partition: str) -> str:
    """The block in the key of a raw partition: `2024-11-15_000000200000`."""
    return partition[11:]
