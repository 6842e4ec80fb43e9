"""Tables of a source database: every record of them that was landed, their history, and their current state.

A table that is read in batches only ever grows, and may be large. So all three are cut into blocks of keys, and what
has to be made again is found block by block: a batch of a thousand rows costs only the blocks that hold them, in memory
and in time. Each is made from the set of all batches, whatever order they came in: a batch that comes twice, or a week
late, gives the same tables.
"""

import hashlib
import types
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from etl_assets.quality.audit import PROBLEMS, Audit, Bound, audit, balance, unreadable
from etl_assets.quality.contract import Contract, column, storage_table, ui_schema
from etl_assets.quality.quarantine import quarantine_table, quarantined
from etl_assets.quality.readings import day, exact, of_this_era
from etl_assets.sources.database import DELETED
from etl_assets.stages.asset import table_asset
from etl_assets.stages.batches import BATCH, raw_batches
from etl_assets.stages.blocks import BlockStep, block_of, in_groups, whole_input
from etl_assets.stages.dataset import SPECS, Dataset, Spec, declare
from etl_assets.storage.configured import publisher
from etl_assets.storage.table import PARTITION, SOURCE_ROW, SOURCE_SHA256, WHOLE, Part, Partitioning, Publication

_MOMENT = "%Y-%m-%dT%H%M%S%.fZ"  # sources.database.BATCH_FORMAT, as polars spells it
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
    """For each contract (of a table's current state): the table's raw records, history and current state.

    The raw records are partitioned by the day of their batch (`Dataset.partitions`), history and current state by
    blocks of keys: a version ends when another comes, so none of their days would ever be complete.

    A contract describes the table `<dataset>_<name>`, where `<name>` is the source's name for it. Its key is one column
    of whole numbers, and it comes after the contracts that its columns refer to (`column(…, references=…)`). A version
    that breaks the contract, or refers to a key that was never seen, is quarantined: the version before stays.
    """
    # Stage after stage: tables that do not depend on each other are made in one run.
    raw = {contract: raw_batches(dataset, landed, contract) for contract in contracts}
    history: dict[type[Contract], dg.AssetsDefinition] = {}
    for contract in contracts:
        references = {name: (of, history[of]) for name, of in _references(contract).items()}
        history[contract] = _history(dataset, contract, raw[contract], references)
    return {of: Versioned(raw[of], history[of], _current(dataset, of, history[of])) for of in contracts}


def _references(contract: type[Contract]) -> dict[str, type[Contract]]:
    found = {name: (declared.metadata or {}).get("references") for name, declared in contract.columns().items()}
    return {name: of for name, of in found.items() if of is not None}


def _history_of(contract: type[Contract]) -> type[Contract]:
    """The contract of a table's history: its versions, each with the time in which it was the current one."""
    place, moment = contract.place(), pl.Datetime("us", "UTC")
    body = {
        "__doc__": f"{contract.__doc__} Every version that was ever seen, with the time in which it was current.",
        "__module__": contract.__module__,
        "__annotations__": {"valid_from": moment, "valid_to": moment, "is_current": pl.Boolean},
        "valid_from": column("Moment of the first batch that has this version", unit="UTC"),
        "valid_to": column("Moment of the batch with the next version, or the deletion", unit="UTC", nullable=True),
        "is_current": column("Whether this is the version that the source had in the last batch"),
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
    inputs = {"raw": whole_input(raw)} | {name: whole_input(of) for name, (_, of) in references.items()}
    spec = declare(dataset, table, contract, inputs, quarantine=quarantine_table(contract.place().table))
    checks = [
        dg.AssetCheckSpec(
            "contract", asset=spec.key, blocking=True,
            description="Versions keep the contract and refer to known keys, with few enough exceptions",
        ),
        dg.AssetCheckSpec("balance", asset=spec.key, description="Records = versions + quarantined + merged"),
        dg.AssetCheckSpec("quarantine", asset=spec.key, description="The newest record of nearly every key is good"),
    ]  # fmt: skip

    @table_asset(spec, checks, metadata={"dagster/column_schema": ui_schema(versions)})
    def step(context: dg.AssetExecutionContext) -> Iterator[Any]:
        work, outcome = BlockStep(context, spec), _Outcome()
        landed, source = work.versions["raw"], SPECS[raw.key].own_table
        partitions: dict[str, list[str]] = defaultdict(list)
        for partition in sorted(landed):
            partitions[block_of(partition)].append(partition)
        keys = {name: _keys(*of) for name, of in references.items()}
        seen = [f"{name} {hashlib.sha256(known.to_numpy().tobytes()).hexdigest()}" for name, known in keys.items()]
        # A block without quarantined rows (clean) stays the same whatever keys are added; one with some (stained)
        # may lose them when the keys that they refer to arrive.
        clean = {k: work.digest(*(f"{p} {landed[p]}" for p in names)) for k, names in partitions.items()}
        stained = {k: work.digest(digest, *seen) for k, digest in clean.items()}
        stale = [k for k in clean if work.made_from(k) not in (clean[k], stained[k])]
        stale += work.known.keys() - clean.keys() - {WHOLE}
        for group in in_groups(sorted(stale)):
            records = work.publisher.read(source, [p for key in group for p in partitions.get(key, [])]).frame
            found = _histories(spec, versions, records, keys)
            refused = outcome.add(found, group, dataset.bound)
            has_stains = set(found.kept_out[PARTITION])
            good = {k: stained[k] if k in has_stains else clean.get(k, "") for k in group if k not in refused}
            work.hold(found.publications(spec, good))
        last = None if outcome.keys else _last(context.instance, dg.AssetCheckKey(spec.key, "quarantine"))
        yield from work.finish(
            *outcome.checks(dataset.bound, last),
            refused=outcome.refused,
            failure_cases=outcome.failure_cases,
            quarantined=outcome.quarantined,
            merged=outcome.merged,
        )

    return step


@dataclass(frozen=True)
class _Histories:
    """The histories of some blocks as their records tell them, and what is kept out of them.

    `versions` and `kept_out` (quarantine records) say in `_partition` which block each row belongs to.
    """

    audited: Audit
    versions: pl.DataFrame
    kept_out: pl.DataFrame
    #: How many records were read, and how many of them are merged into others.
    records: int
    merged: int
    #: By block: how many keys it has, and how many of them have their newest record kept out.
    keys: Mapping[str, int]
    bad_keys: Mapping[str, int]

    @property
    def lost(self) -> int:
        """Records that are in no version and neither kept out nor merged."""
        return self.records - self.versions.height - self.kept_out.height - self.merged

    def refusals(self, blocks: Sequence[str], bound: Bound) -> dict[str, str]:
        """Why blocks are refused: all of them if records are lost, else those with too many bad keys."""
        if self.lost:
            why = f"{self.lost} records are unaccounted for. Nothing was written, the last good state stays."
            return dict.fromkeys(blocks, why)
        refused = {}
        for block in blocks:
            bad, keys = self.bad_keys.get(block, 0), self.keys.get(block, 0)
            if bound.exceeded(bad, keys):
                example = self.kept_out.filter(pl.col(PARTITION) == block)["reason"][-1]
                refused[block] = (
                    f"{bound.refusal(bad, keys)}, such as {example}. Nothing was written, the last good state stays."
                )
        return refused

    def publications(self, spec: Spec, digests: Mapping[str, str]) -> list[Publication]:
        """Some of the blocks, and what is kept out of them; `digests` says which, and what each is made from."""
        table, quarantine = spec.own_table, spec.quarantine
        assert quarantine is not None
        columns, parts, others = [column.name for column in table.columns], [], []
        for block, digest in digests.items():
            is_own = pl.col(PARTITION) == block
            own = self.versions.filter(is_own).sort(list(table.primary_key)).select(columns)
            parts.append(Part(block, own, digest))
            others.append(Part(block, self.kept_out.filter(is_own), digest))
        return [Publication(table, parts), Publication(quarantine, others)]


@dataclass
class _Outcome:
    """What a step has found in all the blocks that it has made so far."""

    records: int = 0
    versions: int = 0
    quarantined: int = 0
    merged: int = 0
    keys: int = 0
    bad_keys: int = 0
    #: Why blocks were refused, by block.
    refused: dict[str, str] = field(default_factory=dict)
    #: Values that are wrong: in the first blocks that were refused; before that, in the last that had any.
    failure_cases: dg.TableMetadataValue | None = None

    def add(self, found: _Histories, blocks: Sequence[str], bound: Bound) -> dict[str, str]:
        """Add what was found in some blocks; return which of them are refused, each with the reason."""
        self.records += found.records
        self.versions += found.versions.height
        self.quarantined += found.kept_out.height
        self.merged += found.merged
        self.keys += sum(found.keys.values())
        self.bad_keys += sum(found.bad_keys.values())
        if not self.refused and found.lost:
            self.failure_cases = None  # no value is the reason why records are lost
        elif not self.refused and found.audited.failures.height:
            self.failure_cases = found.audited.examples()
        refused = found.refusals(blocks, bound)
        self.refused |= refused
        return refused

    def checks(self, bound: Bound, last: AssetCheckEvaluation | None) -> Iterator[dg.AssetCheckResult]:
        """The results of the checks; `last` is the evaluation of `quarantine` that still holds, if no key was seen."""
        why = next(iter(self.refused.values()), None)
        facts: dict[str, Any] = {"versions": self.versions, "quarantined": self.quarantined}
        if lost := self.records - self.versions - self.quarantined - self.merged:
            facts["unaccounted"] = lost
        if self.failure_cases is not None:
            facts["failure_cases"] = self.failure_cases
        yield dg.AssetCheckResult(passed=why is None, check_name="contract", description=why, metadata=facts)
        yield self._quarantine(bound) if last is None else _as_before(last)
        yield balance(self.records, self.versions, self.quarantined, self.merged)

    def _quarantine(self, bound: Bound) -> dg.AssetCheckResult:
        """The check that nearly all keys follow the source.

        It goes by `bound.share` alone: a small table may have fewer keys than `bound.count`, and all of them bad.
        """
        are_many = self.bad_keys > bound.share * self.keys
        told = f"the newest record of {self.bad_keys} of {self.keys} keys is in quarantine"
        return dg.AssetCheckResult(
            passed=not are_many,
            check_name="quarantine",
            severity=dg.AssetCheckSeverity.WARN,
            description=told if are_many else None,
            metadata={"keys": self.keys, "in_quarantine": self.bad_keys},
        )


def _as_before(last: AssetCheckEvaluation) -> dg.AssetCheckResult:
    """The result of a check that was not judged anew."""
    return dg.AssetCheckResult(
        passed=last.passed,
        check_name=last.check_name,
        severity=last.severity,
        description=last.description,
        metadata=last.metadata,
    )


def _last(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> AssetCheckEvaluation | None:
    """The last evaluation of a check."""
    ended = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    found = instance.event_log_storage.get_asset_check_execution_history(check, limit=1, status=ended)
    return found[0].evaluation if found else None


def _histories(
    spec: Spec, contract: type[Contract], records: pl.DataFrame, keys: Mapping[str, pl.Series]
) -> _Histories:
    """The histories of the blocks that these records are of; `keys` are the known keys of the tables referred to.

    Raises `dagster.Failure` if the records as a whole break the contract.
    """
    key = contract.place().key[0]
    distinct, repeats = _without_repeats(records, key, contract.columns())
    audited, gone = _observed(distinct, contract, keys)
    if audited.errors:
        message = f"{spec.own_table.full_name}: {'; '.join(audited.errors)}. Nothing was written."
        raise dg.Failure(message, allow_retries=False)
    block = Partitioning(key, "block").key().alias(PARTITION)
    versions, merged = _chained(audited.good, gone, key)
    rejected = audited.rejected.with_columns(block)
    # Only a key's newest record is judged: an older bad one, mended since, is kept out and harms nobody.
    last = distinct.select(pl.col(key).cast(pl.Int64), BATCH).group_by(key).agg(pl.col(BATCH).max()).with_columns(block)
    bad = rejected.join(last, on=[key, BATCH], how="semi")
    return _Histories(
        audited,
        versions.with_columns(block),
        quarantined(audited, distinct.unique([SOURCE_SHA256, SOURCE_ROW]), rejected[PARTITION]),
        records=records.height,
        merged=repeats + merged,
        keys=dict(last.group_by(PARTITION).len().iter_rows()),
        bad_keys=dict(bad.group_by(PARTITION).len().iter_rows()),
    )


def _without_repeats(records: pl.DataFrame, key: str, declared: Collection[str]) -> tuple[pl.DataFrame, int]:
    """The records without those that repeat the one before them of the same key, and how many were left out.

    A bad one that is landed again and again is in quarantine once, whatever its undeclared columns hold.
    """
    ordered = records.sort(key, BATCH, SOURCE_ROW)
    told = [c for c in records.columns if c in declared or c == DELETED]
    is_repeat = ordered.select(pl.all_horizontal(pl.col(c).eq_missing(pl.col(c).shift()) for c in told)).to_series()
    return ordered.filter(~is_repeat), int(is_repeat.sum())


def _observed(
    records: pl.DataFrame, contract: type[Contract], keys: Mapping[str, pl.Series]
) -> tuple[Audit, pl.DataFrame]:
    """What every batch says about every key, audited; and when keys were seen to be gone."""
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
        SOURCE_SHA256,
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
        return exact(text, dtype)
    if dtype == pl.Boolean:
        return text.replace_strict({"t": True, "f": False}, default=None, return_dtype=pl.Boolean)
    if dtype == pl.Date:
        return day(text)
    if dtype == pl.Datetime:
        text = pl.when(text.str.contains(r"^\d{4}-")).then(text)  # for polars, a year may have fewer digits
        zone = "%#z" if isinstance(dtype, pl.Datetime) and dtype.time_zone else ""
        return of_this_era(text.str.to_datetime(f"%Y-%m-%d %H:%M:%S%.f{zone}", time_unit="us", strict=False))
    if dtype == pl.Time:
        return text.str.to_time("%H:%M:%S%.f", strict=False)
    return text if dtype == pl.String else text.cast(dtype, strict=False)


def _chained(good: pl.DataFrame, gone: pl.DataFrame, key: str) -> tuple[pl.DataFrame, int]:
    """The versions of every key: a record that repeats the one before is merged into it, one that differs ends it.

    Also, the number of merged records: these repeats, and the records that say that a key is gone.
    """
    seen = pl.concat([good.with_columns(pl.lit(False).alias(DELETED)), gone], how="diagonal").sort(key, "valid_from")
    telling = [c for c in seen.columns if c not in (*_TIMES, BATCH, SOURCE_SHA256, SOURCE_ROW)]
    same = pl.all_horizontal(pl.col(c).eq_missing(pl.col(c).shift()) for c in telling)
    merged = seen.select((same | pl.col(DELETED)).sum()).item()
    until = pl.when(pl.col(key) == pl.col(key).shift(-1)).then(pl.col("valid_from").shift(-1))
    versions = seen.filter(~same).with_columns(valid_to=until)
    versions = versions.with_columns(is_current=pl.col("valid_to").is_null())
    return versions.filter(~pl.col(DELETED)).drop(DELETED), merged


def _current(dataset: Dataset, contract: type[Contract], history: dg.AssetsDefinition) -> dg.AssetsDefinition:
    table = storage_table(contract, with_source=True)
    spec = declare(dataset, table, contract, {"history": whole_input(history)})

    @table_asset(spec, [], metadata={"dagster/column_schema": ui_schema(contract)})
    def step(context: dg.AssetExecutionContext) -> Iterator[Any]:
        work, source = BlockStep(context, spec), SPECS[history.key].own_table
        wanted = {key: work.digest(found) for key, found in work.versions["history"].items()}
        stale = [key for key, digest in wanted.items() if work.made_from(key) != digest]
        columns = [c.name for c in table.columns]
        for group in in_groups(sorted(stale)):
            frames = work.publisher.partition_frames(source, group)
            parts = [
                Part(key, frame.filter(pl.col("is_current")).select(columns), wanted[key])
                for key, frame in frames.items()
            ]
            work.hold([Publication(table, parts)])
        yield from work.finish()

    return step


def _keys(contract: type[Contract], history: dg.AssetsDefinition) -> pl.Series:
    """Every key that was ever seen in a table."""
    table, key = SPECS[history.key].own_table, contract.place().key[0]
    return publisher().read(table, columns=[key]).frame[key].unique().sort()
