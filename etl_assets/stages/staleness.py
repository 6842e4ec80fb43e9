"""What is out of date: partitions whose inputs are not the ones that they were made from.

The bookkeeping of every published partition has the digest of what it was made from (its declaration and the content of
its inputs). Comparing it with what the inputs hold now shows what has to be made again, whatever happened in between: a
corrected source, a killed run, another declaration. Content decides, not time.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import dagster as dg

from etl_assets.quality.quarantine import UNPLACED
from etl_assets.stages.dataset import SPECS, Input, Spec, numbered
from etl_assets.storage.configured import lake, landing_store, warehouse
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import Manifest
from etl_assets.storage.table import WHOLE, Facts, Table
from etl_assets.storage.warehouse import Warehouse


@dataclass(frozen=True)
class State:
    """What is published now, queried once: make a new State after something has been published."""

    instance: dg.DagsterInstance
    _specs: Collection[Spec] = ()
    _facts: dict[str, dict[str, Facts]] = field(default_factory=dict)
    _landed: dict[str, Manifest | None] = field(default_factory=dict)
    _records: dict[dg.AssetKey, dg.AssetRecord | None] = field(default_factory=dict)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, instance: dg.DagsterInstance, specs: Collection[Spec]) -> State:
        """The state of the assets that are about to be looked at, queried in one go."""
        own = [table for spec in specs for table in (spec.table, spec.quarantine)]
        inputs = [source.table for spec in specs for source in spec.inputs.values()]
        names = {table.full_name for table in (*own, *inputs) if table}
        nothing: dict[str, dict[str, Facts]] = {name: {} for name in names}
        return cls(instance, specs, nothing | warehouse().facts_of(names))

    @cached_property
    def _lake(self) -> Lake:
        return lake()

    @cached_property
    def _warehouse(self) -> Warehouse:
        return warehouse()

    def facts(self, table: Table) -> dict[str, Facts]:
        """The bookkeeping of a table's partitions."""
        if table.full_name not in self._facts:
            self._facts[table.full_name] = self._warehouse.facts(table.full_name)
        return self._facts[table.full_name]

    def versions(self, source: Input) -> dict[str, str] | None:
        """The content hash of every partition that an input has now; None if it was never made."""
        if source.table is None:
            name = source.key.path[-1]
            if name not in self._landed:
                self._landed[name] = landing_store(name).current()
            manifest = self._landed[name]
            return manifest.versions(source.source_table) if manifest else None
        known = self.facts(source.table)
        upstream = SPECS[source.key]
        if not known and upstream.in_batches and any(self.versions(i) == {} for i in upstream.inputs.values()):
            return {}  # batches were landed, but none with rows of it: it is empty, and need not be made
        cut = source.table.partitioning is not None
        return {k: f.content_hash for k, f in known.items() if not (cut and k == WHOLE)} if known else None

    def out_of_date(self, spec: Spec, *, with_lost: bool = True) -> set[str]:
        """The partitions of an asset that have to be made again; `WHOLE` for an asset without partitions.

        Empty for a landing asset (its source decides), and for an asset one of whose inputs does not exist yet. With
        `with_lost`, the lake is listed to find those that it has lost, too.
        """
        if spec.table is None:
            return set()
        versions: dict[str, Mapping[str, str]] = {}
        for name, source in spec.inputs.items():
            found = self.versions(source)
            if found is None:  # no need to ask for the others
                return set()
            versions[name] = found
        known = self.facts(spec.table)
        keys = {WHOLE} if spec.whole else self._candidates(spec, versions, known)
        unplaced = known.get(UNPLACED) if spec.whole else None
        if unplaced and unplaced.rows:
            wanted = {WHOLE: spec.made_whole_from(versions, has_unplaced=True)}
        else:
            wanted = spec.made_from(keys, versions)
        made = {(spec.partition_of(k), facts.made_from) for k, facts in known.items()}
        stale = {k for k, digest in wanted.items() if (k, digest) not in made}
        lost = self._lost(spec, known) if with_lost else set()
        if spec.whole:
            return {WHOLE} if stale or lost or not self.is_finished(spec) else set()
        log = self.instance.event_log_storage
        attempts = log.get_latest_asset_partition_materialization_attempts_without_materializations(spec.key)
        ended = self._ended({run for run, _ in attempts.values()})
        unfinished = {key for key, (run, _) in attempts.items() if run in ended}
        recorded = self.instance.get_materialized_partitions(spec.key)
        return stale | {k for k in wanted if k in lost or k not in recorded or k in unfinished}

    def _lost(self, spec: Spec, known: Collection[str]) -> set[str]:
        """The partitions that were published, and are not in the lake."""
        table = spec.own_table
        stored = self._lake.partitions(table)
        return {spec.partition_of(k) for k in known if k not in stored and not (table.partitioning and k == WHOLE)}

    def is_finished(self, spec: Spec) -> bool:
        """Whether the last attempt to make an asset without partitions was completed, or is still under way.

        False if the asset was never made.
        """
        with self._asking:  # sources are looked at in parallel
            if spec.key not in self._records:
                keys = list({spec.key, *(other.key for other in self._specs if other.whole)})
                found = {record.asset_entry.asset_key: record for record in self.instance.get_asset_records(keys)}
                self._records.update({key: found.get(key) for key in keys})
            record = self._records[spec.key]
        made = record.asset_entry.last_materialization if record else None
        last = record.asset_entry.last_run_id if record else None
        return made is not None and last is not None and (made.run_id == last or not self._ended({last}))

    def _ended(self, runs: Collection[str]) -> set[str]:
        """Those of some runs that are no longer under way; one that still is may only just have begun."""
        found = self.instance.get_runs(dg.RunsFilter(run_ids=list(runs))) if runs else ()
        return set(runs) - {run.run_id for run in found if not run.is_finished}

    def _candidates(
        self, spec: Spec, versions: Mapping[str, Mapping[str, str]], known: Mapping[str, Facts]
    ) -> set[str]:
        """The partitions of the calendar that an input, or the table itself, has anything of."""
        assert spec.partitions is not None
        there = {
            spec.partition_of(k)
            for name, source in spec.inputs.items()
            if source.source_table or (source.table and source.table.partitioning)
            for k in versions[name]
        }
        return (there | set(map(spec.partition_of, known))) & numbered(spec.partitions).keys()


def in_order(datasets: Collection[str] = ()) -> list[Spec]:
    """All assets in the order in which data flows; with `datasets`, only theirs and those that they wait for.

    Raises ValueError for a dataset that does not exist.
    """
    unknown = set(datasets) - {spec.dataset.name for spec in SPECS.values()}
    if unknown:
        known = sorted({spec.dataset.name for spec in SPECS.values()})
        raise ValueError(f"There is no dataset {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    chosen: list[Spec] = []
    needed: set[dg.AssetKey] = set()
    for spec in reversed(SPECS.values()):
        if not datasets or spec.dataset.name in datasets or spec.key in needed:
            chosen.append(spec)
            needed |= spec.waits_for
    return chosen[::-1]


def levels(specs: Sequence[Spec]) -> list[list[Spec]]:
    """Assets, given in order, by how many lie between them and their sources; none waits for another on its level."""
    depth: dict[dg.AssetKey, int] = {}
    found: list[list[Spec]] = []
    for spec in specs:
        depth[spec.key] = max((depth[key] + 1 for key in spec.waits_for), default=0)
        found.extend([] for _ in range(depth[spec.key] + 1 - len(found)))
        found[depth[spec.key]].append(spec)
    return found
