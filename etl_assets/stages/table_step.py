"""One run of a refined or presentation stage: audit, then publish.

Here: what happens to the frame that a stage's function returned. Rows that break the contract go to quarantine; a
partition with too many of them, or with rows that nobody accounts for, keeps its last good state, while the run's other
partitions are published. A frame that is wrong as a whole is refused. Not here: how a stage is declared (`tables`).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import dagster as dg
import geopandas as gpd
import polars as pl
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from etl_assets.quality.audit import Audit, audit, balance
from etl_assets.quality.contract import Contract
from etl_assets.quality.drift import volume_drift
from etl_assets.quality.quarantine import quarantined
from etl_assets.quality.ui_table import ui_table
from etl_assets.stages.dataset import Spec
from etl_assets.stages.newest import NEWEST, is_dated, judge_newest
from etl_assets.stages.profile import preview, profile
from etl_assets.storage.configured import publisher
from etl_assets.storage.frames import from_geopandas
from etl_assets.storage.io_managers import partition_metadata
from etl_assets.storage.publish import Publisher
from etl_assets.storage.table import PARTITION, WHOLE, Facts, Part, Publication, Table

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
class _Verdict:
    """What was found for one partition, or for the whole of a table that is made in one piece."""

    key: str
    rows: int = 0
    quarantined: int = 0
    merged: int = 0
    rows_in: int | None = None
    refusal: str | None = None
    drift: str | None = None

    @property
    def lost(self) -> int:
        """Rows that came in and are neither published, quarantined nor merged; below 0 if there are more of these."""
        return 0 if self.rows_in is None else self.rows_in - self.rows - self.quarantined - self.merged


@dataclass(frozen=True)
class TableStep:
    """The frame that a stage's function returned, on its way to being published.

    `raw` holds the records that are to be accounted for, if any; `versions` gives the content hash of each partition
    of each input.
    """

    context: dg.AssetExecutionContext
    spec: Spec
    contract: type[Contract]
    result: Result
    raw: pl.DataFrame | None
    versions: Mapping[str, Mapping[str, str]]

    @property
    def table(self) -> Table:
        """The table that is made."""
        return self.spec.own_table

    @cached_property
    def _publisher(self) -> Publisher:
        return publisher()

    def events(self) -> Iterator[Any]:
        """Audit, publish, and tell Dagster; raises `dagster.Failure` for what is refused."""
        given = self.result.frame
        found = audit(from_geopandas(given) if isinstance(given, gpd.GeoDataFrame) else given, self.contract)
        if found.errors or (self.raw is None and found.failures.height):  # no record to quarantine: the stage made it
            yield from self._refuse_all(found)
        found = replace(found, good=self._with_keys(found.good), rejected=self._with_keys(found.rejected))
        known = self._publisher.warehouse.facts(self.table.full_name)
        keys = self._keys(found.good, known)
        self._refuse_strays(found.good, keys)
        verdicts = self._verdicts(keys, found, known)
        self._log(verdicts)
        accepted = [v.key for v in verdicts if v.refusal is None]
        passed = keys if self.spec.whole and accepted else accepted
        publications = self._publications(passed, found)
        if len(accepted) < len(verdicts):
            yield from self._publish_some(verdicts, passed, publications, found)  # and fails
        yield dg.Output(publications, metadata=self._metadata(found.good, verdicts))
        yield from self._check_events(verdicts, found)

    # --- judging

    def _with_keys(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with the partition that each belongs to; a rejected row may have it only from its raw record."""
        if self.table.partitioning is None:
            return rows.with_columns(_key=pl.lit(WHOLE))
        own = self.table.partitioning.key()
        return rows.with_columns(_key=pl.coalesce(own, PARTITION) if PARTITION in rows.columns else own)

    def _keys(self, good: pl.DataFrame, known: Mapping[str, Facts]) -> list[str]:
        """The partitions that are published: the run's, or all that a table made in one piece has or had."""
        if not self.spec.whole:
            return list(self.context.partition_keys)
        if self.table.partitioning is None:
            return [WHOLE]
        # The lake's too: a run that was killed before the warehouse had a partition has left it only there.
        there = known.keys() | self._publisher.lake.partitions(self.table).keys()
        return sorted({k for k in good["_key"].unique() if k is not None} | (there - {WHOLE}))

    def _refuse_strays(self, good: pl.DataFrame, keys: Sequence[str]) -> None:
        strays = good.filter(~pl.col("_key").is_in(keys) | pl.col("_key").is_null())
        if strays.height:
            raise dg.Failure(
                f"{self.table.full_name}: {strays.height} rows belong to partitions that are not being run, such as "
                f"{strays['_key'][0]}. The function of this stage must keep to the rows of its inputs.",
                allow_retries=False,
            )

    def _verdicts(self, keys: Sequence[str], found: Audit, known: Mapping[str, Facts]) -> list[_Verdict]:
        """One verdict per partition of the run; a table that is made in one piece is judged as one."""
        cut = not self.spec.whole
        rows = _counts(found.good, "_key" if cut else None)
        out = _counts(found.rejected, "_key" if cut else None)
        merged = _counts(self.result.merged, PARTITION if cut else None)
        rows_in = None if self.raw is None else _counts(self.raw, PARTITION if cut else None)
        bound = self.spec.dataset.bound
        verdicts = []
        for key in keys if cut else [WHOLE]:
            verdict = _Verdict(
                key,
                rows=rows.get(key, 0),
                quarantined=out.get(key, 0),
                merged=merged.get(key, 0),
                rows_in=None if rows_in is None else rows_in.get(key, 0),
                drift=volume_drift(key, rows.get(key, 0), known),
            )
            why = None
            total = verdict.rows + verdict.quarantined + verdict.merged
            if bound.exceeded(verdict.quarantined, total):
                why = f"{bound.refusal(verdict.quarantined, total)}, such as {self._own(found, key).example()}"
            elif verdict.lost:
                why = (
                    f"{verdict.rows_in} rows came in, but {verdict.rows} are to be published, {verdict.quarantined} "
                    f"quarantined and {verdict.merged} merged: {verdict.lost} are unaccounted for"
                )
            refusal = f"{why}. Nothing was written, the last good state stays." if why else None
            verdicts.append(replace(verdict, refusal=refusal))
        return verdicts

    def _own(self, found: Audit, partition: str) -> Audit:
        """What was found in the rows of one partition."""
        return found if self.spec.whole else found.of_rows(found.rejected["_key"] == partition)

    def _publications(self, keys: Sequence[str], found: Audit) -> list[Publication]:
        """The table's partitions, their rows in key order, and beside them the quarantine's."""
        columns = [c.name for c in self.table.columns]
        parted_by = [self.table.partitioning.column] if self.table.partitioning else []
        order = list(dict.fromkeys([*parted_by, *self.table.primary_key])) or columns[:1]
        cut = found.good.select(*columns, "_key").partition_by("_key", as_dict=True, include_key=False)
        # One after another: sorting the whole frame at once would take memory for a second copy of it.
        frames = {str(key[0]): cut.pop(key).sort(order) for key in list(cut)}
        nothing = found.good.clear()[columns]
        made_from = self.spec.made_from(keys, self.versions)
        parts = [Part(key, frames.get(key, nothing), made_from[key]) for key in keys]
        whole = self.spec.made_whole_from(self.versions) if self.spec.whole and self.table.partitioning else None
        publications = [Publication(self.table, parts, whole)]
        if self.raw is not None and (quarantine := self.spec.quarantine) is not None:
            kept_out = quarantined(found, self.raw, found.rejected["_key"].fill_null(WHOLE))
            held = {str(k[0]): part for k, part in kept_out.partition_by(PARTITION, as_dict=True).items()}
            if self.spec.whole:  # a partition may have nothing but rejected rows
                known = self._publisher.warehouse.facts(quarantine.full_name).keys()
                keys = sorted(known | held.keys())
                made_from = self.spec.made_from(keys, self.versions)
            parts = [Part(key, held.get(key, kept_out.clear()), made_from[key]) for key in keys]
            publications.append(Publication(quarantine, parts))
        return publications

    def _refuse_all(self, found: Audit) -> Iterator[Any]:
        """Put on record that no partition passed, and fail the step."""
        errors = list(found.errors)
        if found.failures.height:
            check, column, value = found.failures.select("check", "column", "value").row(0)
            errors.append(f"{found.rejected.height} rows break the contract, such as {check} of {column}: {value}")
        message = f"{self.table.full_name}: the frame as a whole breaks the contract: " + "; ".join(errors)
        facts = {"errors": "\n".join(errors), "failure_cases": found.examples()}
        for key in [WHOLE] if self.spec.whole else self.context.partition_keys:
            yield self._contract(_Verdict(key, refusal=message), facts)
        raise dg.Failure(f"{message}. Nothing was written.", allow_retries=False)

    def _publish_some(
        self, verdicts: Sequence[_Verdict], passed: Sequence[str], publications: Sequence[Publication], found: Audit
    ) -> Iterator[Any]:
        """Publish the good partitions and put them on record, then fail the step for the others."""
        refused = [v for v in verdicts if v.refusal]
        if passed:
            own = self._publisher.publish(publications, self.context.run.run_id)[self.table.full_name]
            for published in own:
                self.context.log_event(
                    dg.AssetMaterialization(
                        self.spec.key, partition=published.key, metadata=partition_metadata(published)
                    )
                )
        yield from self._check_events(verdicts, found)
        why = f"{refused[0].refusal}"
        if not self.spec.whole:
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

    # --- reporting

    def _log(self, verdicts: Sequence[_Verdict]) -> None:
        self.context.log.info(
            f"{self.table.full_name}: {sum(v.rows for v in verdicts)} rows in {len(verdicts)} partitions, "
            f"{sum(v.quarantined for v in verdicts)} quarantined, {sum(v.merged for v in verdicts)} merged, "
            f"{sum(1 for v in verdicts if v.refusal)} partitions refused"
        )

    def _metadata(self, good: pl.DataFrame, verdicts: Sequence[_Verdict]) -> dict[str, Any]:
        """Metadata of the whole run; with many partitions it is copied to each, so it is kept small."""
        if len(verdicts) > 1:
            return {}
        declared = good.select(~pl.selectors.starts_with("_"))
        return {
            **self.result.metadata,
            "preview": preview(declared),
            "columns_profile": profile(declared),
            "quarantined": verdicts[0].quarantined,
            "merged": verdicts[0].merged,
            **({"dagster/row_count": good.height} if self.spec.whole else {}),
        }

    def _check_events(self, verdicts: Sequence[_Verdict], found: Audit) -> Iterator[Any]:
        """The contract's evaluation of every partition, and one of each other check for the run."""
        # Refused ones last: the UI shows a check's last evaluation.
        for verdict in sorted(verdicts, key=lambda verdict: verdict.refusal is not None):
            contract: dict[str, Any] = {"rows": verdict.rows, "quarantined": verdict.quarantined}
            if verdict.lost:
                contract["unaccounted"] = verdict.lost
            if verdict.quarantined and (verdict.refusal or len(verdicts) == 1):
                own = self._own(found, verdict.key)
                contract |= {"failures_per_check": own.counts(), "failure_cases": own.examples()}
            yield self._contract(verdict, contract)
        if not self.spec.whole:
            yield self._output_of("contract")
        if self.raw is not None:
            yield balance(
                self.raw.height,
                sum(v.rows for v in verdicts),
                sum(v.quarantined for v in verdicts),
                sum(v.merged for v in verdicts),
            )
        if accepted := [v for v in verdicts if v.refusal is None]:
            yield self._volume(accepted)
        if is_dated(self.spec):
            yield self._output_of(NEWEST)
            yield judge_newest(self.spec)

    def _volume(self, accepted: Sequence[_Verdict]) -> dg.AssetCheckResult:
        """The check `volume`: what is remarkable about the numbers of rows that are published."""
        drifted: list[dict[str, object]] = [{"partition": v.key, "drift": v.drift} for v in accepted if v.drift]
        # Many small partitions may each stay within the bound, so that none is refused, and exceed it together.
        rows, out = sum(v.rows for v in accepted), sum(v.quarantined for v in accepted)
        if len(accepted) > 1 and self.spec.dataset.bound.exceeded(out, rows + out):
            span = f"{accepted[0].key} to {accepted[-1].key}"
            drifted.insert(0, {"partition": span, "drift": f"{out} of {rows + out} rows are in quarantine"})
        return dg.AssetCheckResult(
            passed=not drifted,
            check_name="volume",
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{drifted[0]['partition'] or 'in all'}: {drifted[0]['drift']}" if drifted else None,
            metadata={"rows": rows, "drifted": ui_table(drifted[:_SHOWN])},
        )

    def _output_of(self, check: str) -> dg.Output[None]:
        """The output that Dagster wants for a check besides its evaluations, where the step gives those itself."""
        return dg.Output(None, output_name=f"{self.spec.key.to_python_identifier()}_{check}")

    def _contract(self, verdict: _Verdict, metadata: Mapping[str, Any]) -> Any:
        """The check `contract`: of the partition, if the asset has any."""
        passed = verdict.refusal is None
        if self.spec.whole:
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


def _counts(rows: pl.DataFrame | None, by: str | None) -> dict[str, int]:
    """Numbers of rows by partition; of all of them under `WHOLE` without `by`."""
    if rows is None:
        return {}
    if by is None or by not in rows.columns:
        return {WHOLE: rows.height}
    return {str(key): n for key, n in rows.group_by(by).len().iter_rows()}
