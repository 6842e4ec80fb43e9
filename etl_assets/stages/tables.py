"""The refined and presentation stages: audited tables, published partition by partition.

Audit, then publish: a step judges its frame before anything is written. Rows that break the contract go to
quarantine; a partition with too many of them, or whose frame is wrong as a whole, is not written at all and keeps its
last good state, while the run's other partitions are published.
"""

import inspect
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import dagster as dg
import geopandas as gpd
import polars as pl
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from etl_assets.quality.audit import Audit, audit, balance
from etl_assets.quality.contract import Contract, storage_table, ui_schema
from etl_assets.quality.drift import volume_drift
from etl_assets.quality.quarantine import quarantine_table, quarantined
from etl_assets.quality.ui_table import ui_table
from etl_assets.stages.asset import table_asset
from etl_assets.stages.dataset import SPECS, Dataset, Input, Spec, declare
from etl_assets.stages.newest import NEWEST, is_dated, judge_newest, newest_check
from etl_assets.stages.profile import preview, profile
from etl_assets.storage.configured import publisher
from etl_assets.storage.frames import from_geopandas, to_geopandas
from etl_assets.storage.io_managers import published_metadata
from etl_assets.storage.lake import Facts, Loaded
from etl_assets.storage.table import PARTITION, WHOLE, Part, Partitioning, Publication, Table

Frame: TypeAlias = pl.DataFrame | gpd.GeoDataFrame
_SHOWN = 20


@dataclass(frozen=True)
class Result:
    """What a stage's function returns when a frame alone does not say it all.

    `merged` are the raw rows that went into other rows (duplicates): they are accounted for, not lost. `metadata` is
    shown in the UI with the materialization (maps and plots: on assets without partitions only).
    """

    frame: Frame
    merged: pl.DataFrame | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Of:
    """An upstream asset of which only some columns are needed, or all partitions, whichever ones are being made."""

    asset: dg.AssetsDefinition
    columns: Sequence[str] | None = None
    all_partitions: bool = False


Upstream = dg.AssetsDefinition | Of
Decorator = Callable[[Callable[..., Frame | Result]], dg.AssetsDefinition]


def refined(dataset: Dataset, contract: type[Contract], **inputs: Upstream) -> Decorator:
    """Decorate a function that types, keys, corrects and deduplicates raw records.

    The input named `raw` is accounted for: every one of its rows is published, quarantined or merged. The function
    keeps the raw columns whose names begin with `_`.
    """
    return _stage(dataset, contract, inputs, accounted="raw", partitions=dataset.partitions)


def presentation(
    dataset: Dataset,
    contract: type[Contract],
    *,
    partitions: dg.TimeWindowPartitionsDefinition | None = None,
    **inputs: Upstream,
) -> Decorator:
    """Decorate a function that makes a table for its readers from refined tables.

    A parameter named `partitions` gets the keys of the partitions that are being made.
    """
    return _stage(dataset, contract, inputs, accounted=None, partitions=partitions)


def _stage(
    dataset: Dataset,
    contract: type[Contract],
    inputs: Mapping[str, Upstream],
    accounted: str | None,
    partitions: dg.TimeWindowPartitionsDefinition | None,
) -> Decorator:
    table = storage_table(contract, with_source=accounted is not None)
    if partitions is not None and table.partitioning is None:
        raise TypeError(
            f"{table.full_name} is made partition by partition: say in its contract by which column it is cut into "
            "them (partitioning=Partitioning(…))"
        )
    upstream = {name: _input(given, table, partitions) for name, given in inputs.items()}
    quarantine = quarantine_table(table.name) if accounted else None
    spec = declare(dataset, table, contract, upstream, partitions, quarantine)

    def decorate(function: Callable[..., Frame | Result]) -> dg.AssetsDefinition:
        kinds = typing.get_type_hints(function)
        wants_partitions = "partitions" in inspect.signature(function).parameters

        @table_asset(
            spec,
            list(_checks(spec, accounted)),
            metadata={"dagster/column_schema": ui_schema(contract)},
            ins={
                name: dg.AssetIn(
                    source.key,
                    input_manager_key="table_io",
                    metadata={"columns": list(source.columns or []), "by_partition": source.by_partition},
                )
                for name, source in upstream.items()
            },
        )
        def step(context: dg.AssetExecutionContext, **loaded: Loaded) -> Iterator[Any]:
            frames: dict[str, Any] = {
                name: _as(kinds.get(name), upstream[name], given) for name, given in loaded.items()
            }
            if wants_partitions:
                frames["partitions"] = list(context.partition_keys)
            result = function(**frames)
            result = result if isinstance(result, Result) else Result(result)
            raw = loaded[accounted].frame if accounted else None
            versions = {name: given.versions for name, given in loaded.items()}
            yield from _Step(context, spec, contract, table, result, raw, versions).events()

        return step

    return decorate


def _input(given: Upstream, table: Table, partitions: dg.TimeWindowPartitionsDefinition | None) -> Input:
    """An upstream as the stage reads it; raises TypeError for one that is cut into other partitions than the stage."""
    of = given if isinstance(given, Of) else Of(given)
    source = SPECS[of.asset.key]
    cut = source.table.partitioning if source.table else None
    by_partition = partitions is not None and cut is not None and not of.all_partitions
    if by_partition and cut and table.partitioning and _window(cut) not in ("value", _window(table.partitioning)):
        raise TypeError(
            f"{table.full_name} is partitioned by {table.partitioning.every}, but its input "
            f"{source.key.to_user_string()} by {cut.every}: a partition would be made only from the one with the same "
            "key. Use Of(…, all_partitions=True)."
        )
    return Input(source.key, source.table, by_partition, tuple(of.columns) if of.columns else None)


def _window(partitioning: Partitioning) -> str:
    return partitioning.every.removesuffix("_number")  # a year is a year, whether a date or a number


def _checks(spec: Spec, accounted: str | None) -> Iterator[dg.AssetCheckSpec]:
    """The stage's checks. Only the contract is judged per partition: each evaluation is an event in Dagster's database,
    and three of them for each of a thousand days take longer than the days' data."""
    yield dg.AssetCheckSpec(
        "contract",
        asset=spec.key,
        blocking=True,
        description="Rows keep the contract; those that do not are few enough to be quarantined",
        partitions_def=spec.partitions,
    )
    if accounted:
        yield dg.AssetCheckSpec("balance", asset=spec.key, description="Rows in = rows out + quarantined + merged")
    before = "in the partitions before it, and at least half as many as last time" if spec.partitions else "last time"
    yield dg.AssetCheckSpec("volume", asset=spec.key, description=f"About as many rows as {before}")
    if is_dated(spec):
        yield newest_check(spec)


def _as(kind: Any, source: Input, loaded: Loaded) -> Frame:
    if inspect.isclass(kind) and issubclass(kind, gpd.GeoDataFrame):
        assert source.table is not None
        return to_geopandas(source.table, loaded.frame)
    return loaded.frame


@dataclass(frozen=True)
class _Verdict:
    """What was found for one partition."""

    key: str
    rows: int = 0
    quarantined: int = 0
    merged: int = 0
    rows_in: int | None = None
    refusal: str | None = None
    drift: str | None = None


@dataclass(frozen=True)
class _Step:
    """One run of a stage: the frame that its function returned, on its way to being published."""

    context: dg.AssetExecutionContext
    spec: Spec
    contract: type[Contract]
    table: Table
    result: Result
    raw: pl.DataFrame | None
    versions: Mapping[str, Mapping[str, str]]

    def events(self) -> Iterator[Any]:
        """Audit, publish, and tell Dagster."""
        given = self.result.frame
        frame = from_geopandas(given) if isinstance(given, gpd.GeoDataFrame) else given
        found = audit(frame, self.contract)
        if found.errors or (self.raw is None and found.failures.height):  # no record to quarantine: the stage made it
            yield from self._refuse_all(found)
        good = self._with_keys(found.good)
        rejected = self._with_keys(found.rejected)
        known = publisher().warehouse.facts(self.table.full_name)
        keys = self._keys(good, known)
        strays = good.filter(~pl.col("_key").is_in(keys) | pl.col("_key").is_null())
        if strays.height:
            stray = strays["_key"][0]
            raise dg.Failure(
                f"{self.table.full_name}: {strays.height} rows belong to partitions that are not being run, such as "
                f"{stray}. The function of this stage must keep to the rows of its inputs.",
                allow_retries=False,
            )
        verdicts = self._verdicts(keys, good, found, rejected, known)
        yield from self._refuse_unbalanced(self._total(verdicts))
        accepted = [v.key for v in verdicts if v.refusal is None]
        passed = keys if self.spec.partitions is None and accepted else accepted
        publications = self._publications(passed, good, found, rejected)
        self._log(verdicts)
        if len(accepted) == len(verdicts):
            yield dg.Output(publications, metadata=self._metadata(good.drop("_key"), verdicts))
            yield from self._check_events(verdicts, found, rejected)
            return
        yield from self._publish_some(verdicts, passed, publications, found, rejected)

    # -- judging -------------------------------------------------------------------------------------------------

    def _with_keys(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with the partition that each belongs to; a rejected row may have it only from its raw record."""
        if self.table.partitioning is None:
            return rows.with_columns(_key=pl.lit(WHOLE))
        own = self.table.partitioning.key()
        return rows.with_columns(_key=pl.coalesce(own, PARTITION) if PARTITION in rows.columns else own)

    def _keys(self, good: pl.DataFrame, known: Mapping[str, Any]) -> list[str]:
        if self.spec.partitions is not None:
            return list(self.context.partition_keys)
        if self.table.partitioning is None:
            return [WHOLE]
        # The lake's too: a run that was killed before the warehouse had a partition has left it only there.
        there = known.keys() | publisher().lake.partitions(self.table).keys()
        return sorted({k for k in good["_key"].unique() if k is not None} | (there - {WHOLE}))

    def _verdicts(
        self,
        keys: Sequence[str],
        good: pl.DataFrame,
        found: Audit,
        rejected: pl.DataFrame,
        known: Mapping[str, Facts],
    ) -> list[_Verdict]:
        """One verdict per partition of the run; a table that is made in one piece is judged as one."""
        cut = self.spec.partitions is not None
        rows = _counts(good, "_key" if cut else None)
        out = _counts(rejected, "_key" if cut else None)
        merged = _counts(self.result.merged, PARTITION if cut else None)
        rows_in = None if self.raw is None else _counts(self.raw, PARTITION if cut else None)
        bound = self.spec.dataset.bound
        verdicts = []
        for key in keys if cut else [WHOLE]:
            numbers = rows.get(key, 0), out.get(key, 0), merged.get(key, 0)
            into = None if rows_in is None else rows_in.get(key, 0)
            refusal = None
            if bound.exceeded(numbers[1], sum(numbers)):
                own = found.part(rejected["_key"] == key) if cut else found
                refusal = (
                    f"{bound.refusal(numbers[1], sum(numbers))}, such as {own.example()}. Nothing was written, the "
                    "last good state stays."
                )
            elif into is not None and cut and into != sum(numbers):
                refusal = (
                    f"{into} rows came in, but {numbers[0]} are to be published, {numbers[1]} quarantined and "
                    f"{numbers[2]} merged: {into - sum(numbers)} are unaccounted for. Nothing was written."
                )
            drift = volume_drift(key, numbers[0], known)
            verdicts.append(_Verdict(key, *numbers, rows_in=into, refusal=refusal, drift=drift))
        return verdicts

    def _publications(
        self, keys: Sequence[str], good: pl.DataFrame, found: Audit, rejected: pl.DataFrame
    ) -> list[Publication]:
        """The table's partitions, their rows in key order, and beside them the quarantine's."""
        columns = [c.name for c in self.table.columns]
        parted_by = [self.table.partitioning.column] if self.table.partitioning else []
        order = list(dict.fromkeys([*parted_by, *self.table.primary_key])) or columns[:1]
        cut = good.select(*columns, "_key").partition_by("_key", as_dict=True, include_key=False)
        # One after another: sorting the whole frame at once would take memory for a second copy of it.
        frames = {str(key[0]): cut.pop(key).sort(order) for key in list(cut)}
        nothing = good.clear()[columns]
        made_from = self.spec.made_from(keys, self.versions)
        parts = [Part(key, frames.get(key, nothing), made_from[key]) for key in keys]
        whole = self.spec.made_whole_from(self.versions) if self.spec.whole and self.table.partitioning else None
        publications = [Publication(self.table, parts, whole)]
        if self.raw is not None and (quarantine := self.spec.quarantine) is not None:
            kept_out = quarantined(found, self.raw, rejected["_key"].fill_null(WHOLE))
            held = {str(k[0]): part for k, part in kept_out.partition_by(PARTITION, as_dict=True).items()}
            if self.spec.whole:  # a partition may have nothing but rejected rows
                known = publisher().warehouse.facts(quarantine.full_name).keys()
                keys = sorted(known | held.keys())
                made_from = self.spec.made_from(keys, self.versions)
            parts = [Part(key, held.get(key, kept_out.clear()), made_from[key]) for key in keys]
            publications.append(Publication(quarantine, parts))
        return publications

    # -- reporting -----------------------------------------------------------------------------------------------

    def _log(self, verdicts: Sequence[_Verdict]) -> None:
        self.context.log.info(
            f"{self.table.full_name}: {sum(v.rows for v in verdicts)} rows in {len(verdicts)} partitions, "
            f"{sum(v.quarantined for v in verdicts)} quarantined, {sum(v.merged for v in verdicts)} merged, "
            f"{sum(1 for v in verdicts if v.refusal)} partitions refused"
        )

    def _metadata(self, good: pl.DataFrame, verdicts: Sequence[_Verdict]) -> dict[str, Any]:
        """Metadata of the whole run; with many partitions it is copied to each, so it is kept small."""
        if len(verdicts) > 1 and self.spec.partitions is not None:
            return {}
        declared = good.select(~pl.selectors.starts_with("_"))
        return {
            **self.result.metadata,
            "preview": preview(declared),
            "columns_profile": profile(declared),
            "quarantined": sum(v.quarantined for v in verdicts),
            "merged": sum(v.merged for v in verdicts),
            **({} if self.table.partitioning and self.spec.partitions else {"dagster/row_count": good.height}),
        }

    def _refuse_unbalanced(self, total: _Verdict) -> Iterator[Any]:
        """Fail if rows of the input are neither published, quarantined nor merged, or are counted twice."""
        if total.rows_in is None:
            return
        check = balance(total.rows_in, total.rows, total.quarantined, total.merged)
        if not check.passed:
            yield check
            raise dg.Failure(
                f"{self.table.full_name}: {total.rows_in} rows came in, {total.rows} are to be published, "
                f"{total.quarantined} quarantined and {total.merged} merged: {check.description}. "
                "Nothing was written.",
                allow_retries=False,
            )

    def _refuse_all(self, found: Audit) -> Iterator[Any]:
        errors = list(found.errors)
        if found.failures.height:
            check, column, value = found.failures.select("check", "column", "value").row(0)
            errors.append(f"{found.rejected.height} rows break the contract, such as {check} of {column}: {value}")
        message = f"{self.table.full_name}: the frame as a whole breaks the contract: " + "; ".join(errors)
        facts = {"errors": "\n".join(errors), "failure_cases": found.examples()}
        keys = self.context.partition_keys if self.spec.partitions is not None else [WHOLE]
        for key in keys:
            yield self._contract(_Verdict(key, refusal=message), facts)
        raise dg.Failure(f"{message}. Nothing was written.", allow_retries=False)

    def _check_events(self, verdicts: Sequence[_Verdict], found: Audit, rejected: pl.DataFrame) -> Iterator[Any]:
        """The contract's evaluation of every partition, and one of each other check for the run."""
        total = self._total(verdicts)
        # Refused ones last: the UI shows a check's last evaluation.
        by_partition = sorted(verdicts, key=lambda verdict: verdict.refusal is not None)
        for verdict in by_partition if self.spec.partitions is not None else [total]:
            contract: dict[str, Any] = {"rows": verdict.rows, "quarantined": verdict.quarantined}
            if verdict.quarantined and (verdict.refusal or len(verdicts) == 1 or verdict is total):
                own = found if verdict is total else found.part(rejected["_key"] == verdict.key)
                contract |= {"failures_per_check": own.counts(), "failure_cases": own.examples()}
            yield self._contract(verdict, contract)
        if self.spec.partitions is not None:
            yield self._output_of("contract")
        if total.rows_in is not None:
            yield balance(total.rows_in, total.rows, total.quarantined, total.merged)
        drifted: list[dict[str, object]] = [{"partition": v.key, "drift": v.drift} for v in verdicts if v.drift]
        # Many small partitions may each stay within the bound, so that none is refused, and exceed it together.
        accepted = [v for v in verdicts if v.refusal is None]
        out = sum(v.quarantined for v in accepted)
        rows = out + sum(v.rows for v in accepted)
        if len(accepted) > 1 and self.spec.dataset.bound.exceeded(out, rows):
            span = f"{accepted[0].key} to {accepted[-1].key}"
            drifted.insert(0, {"partition": span, "drift": f"{out} of {rows} rows are in quarantine"})
        yield dg.AssetCheckResult(
            passed=not drifted,
            check_name="volume",
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{drifted[0]['partition'] or 'in all'}: {drifted[0]['drift']}" if drifted else None,
            metadata={"rows": total.rows, "drifted": ui_table(drifted[:_SHOWN])},
        )
        if is_dated(self.spec):
            yield self._output_of(NEWEST)
            yield judge_newest(self.spec)

    def _output_of(self, check: str) -> dg.Output[None]:
        """The output that Dagster wants for a check besides its evaluations, where the step gives those itself."""
        return dg.Output(None, output_name=f"{self.spec.key.to_python_identifier()}_{check}")

    def _total(self, verdicts: Sequence[_Verdict]) -> _Verdict:
        """The verdicts on all partitions of the run, added up to one."""
        return _Verdict(
            WHOLE,
            rows=sum(v.rows for v in verdicts),
            quarantined=sum(v.quarantined for v in verdicts),
            merged=sum(v.merged for v in verdicts),
            rows_in=None if self.raw is None else self.raw.height,
            refusal=next((v.refusal for v in verdicts if v.refusal), None),
            drift=next((v.drift for v in verdicts if v.drift), None),
        )

    def _contract(self, verdict: _Verdict, metadata: Mapping[str, Any]) -> Any:
        passed = verdict.refusal is None
        if self.spec.partitions is None:
            return dg.AssetCheckResult(
                passed=passed, check_name="contract", description=verdict.refusal, metadata=metadata
            )
        return dg.AssetCheckEvaluation(
            asset_key=self.spec.key,
            check_name="contract",
            passed=passed,
            blocking=True,
            description=verdict.refusal,
            metadata=dict(metadata),
            partition=verdict.key,
            target_materialization_data=self._materialization(verdict.key) if passed else None,
        )

    @cached_property
    def _materializations(self) -> Mapping[str, int]:
        """The newest materialization of each of the run's partitions; asked for once, when they have been published."""
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        keys = set(self.context.partition_keys)
        return self.context.instance.get_latest_storage_id_by_partition(self.spec.key, kind, partitions=keys)

    def _materialization(self, partition: str) -> AssetCheckEvaluationTargetMaterializationData | None:
        """The materialization that a passed check belongs to: without it, the UI shows the check as missing."""
        found = self._materializations.get(partition)
        if found is None:
            return None
        return AssetCheckEvaluationTargetMaterializationData(
            storage_id=found, run_id=self.context.run.run_id, timestamp=time.time()
        )

    def _publish_some(
        self,
        verdicts: Sequence[_Verdict],
        passed: Sequence[str],
        publications: Sequence[Publication],
        found: Audit,
        rejected: pl.DataFrame,
    ) -> Iterator[Any]:
        """Publish the good partitions and put them on record, then fail the step for the others."""
        refused = [v for v in verdicts if v.refusal]
        if passed:
            own = publisher().publish(publications, self.context.run.run_id)[self.table.full_name]
            if self.spec.partitions is not None:
                for published in own:
                    self.context.log_event(
                        dg.AssetMaterialization(
                            self.spec.key, partition=published.key, metadata=published_metadata(published)
                        )
                    )
        yield from self._check_events(verdicts, found, rejected)
        why = f"{refused[0].refusal}"
        if self.spec.partitions is not None:
            others = "the others are published. " if passed else ""
            why = f"{len(refused)} of {len(verdicts)} partitions were refused, {others}{refused[0].key}: {why}"
        raise dg.Failure(
            f"{self.table.full_name}: {why}",
            metadata={
                "refused": ui_table([{"partition": v.key, "why": v.refusal} for v in refused[:_SHOWN]]),
                "failure_cases": found.examples(),
            },
            allow_retries=False,
        )


def _counts(rows: pl.DataFrame | None, by: str | None) -> dict[str, int]:
    if rows is None:
        return {}
    if by is None or by not in rows.columns:
        return {WHOLE: rows.height}
    return {str(key): n for key, n in rows.group_by(by).len().iter_rows()}
