"""One mutation after another, each on the same good state, and what has to be so whatever a source sends."""

from __future__ import annotations

import os
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import polars as pl
import psycopg
import pytest
import shapely
from psycopg import sql

from etl_assets.definitions import defs
from etl_assets.local.postgres import Cluster
from etl_assets.local.source_server import serve
from etl_assets.quality.audit import audit
from etl_assets.quality.contract import Contract, storage_table
from etl_assets.quality.quarantine import quarantine_table
from etl_assets.sources.folder import WatchedFolder
from etl_assets.sources.paging import PagedSource
from etl_assets.stages.dataset import Spec
from etl_assets.stages.failures import why_step_failed
from etl_assets.stages.staleness import in_order
from etl_assets.storage.hashes import content_hashes
from etl_assets.storage.table import ROW_HASH, Table
from etl_assets_tests.contents import partition_key
from etl_assets_tests.faults import Faults
from etl_assets_tests.fuzz.subjects import PAGED, Answer, Mutation, Subject
from etl_assets_tests.house import House, ephemeral

_LONGEST_MESSAGE = 20_000
_TOKEN = "fuzz-token"
_DROPPED = "dropped"
#: How a message names what was read.
_FILE = re.compile(rf"(https?|postgresql)://|page |extract|\.csv|database |/{_DROPPED} ")

#: Partitions of tables, each with all its rows as text, and how often each row is there.
Contents = dict[str, dict[str, Counter[str]]]


@dataclass(frozen=True)
class Verdict:
    """What came of a mutation: published, quarantined, refused or unchanged; and what should not be."""

    seed: int
    what: str
    outcome: str
    findings: tuple[str, ...]


@dataclass
class Campaign:
    """A source with a good publication, which is spoilt again and again."""

    subject: Subject
    house: House
    answers: list[Answer] = field(default_factory=list)
    reference: Contents = field(default_factory=dict)

    def prepare(self) -> None:
        """Publish what is good, and see which answers of the source that took."""
        self.house.datasets = list(self.subject.datasets)
        if self.subject.database is not None:
            self.house.open_database(self.subject.database)
        self._send(None)
        assert self.house.run(), self.house.failures()
        # A second time whole, as every mutation is asked for; from then on all of it is known.
        seen = len(self.house.faults.log)
        assert self.house.run(anew=True), self.house.failures()
        asked = {
            (entry.path, entry.query)
            for entry in self.house.faults.log[seen:]
            if entry.method == "GET" and entry.status == 200 and entry.path.startswith(self.subject.place)
        }
        queries = [
            (path, {k: v[0] for k, v in parse_qs(query, keep_blank_values=True).items() if k != "key"})
            for path, query in sorted(asked)
        ]
        names = {name for _, query in queries for name in query}
        if self.subject.dropped is not None:
            queries = [(self.subject.dropped, {})]
        self.answers = [Answer(path, {name: query.get(name) for name in names}) for path, query in queries]
        with psycopg.connect(self.house.warehouse_url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS fuzz_canary ()")
        self.reference = self._look()
        if self.subject.has_history:
            self._keep()

    def spoil(self, seed: int) -> Verdict:
        """Let the source answer wrongly, judge what came of it, and let it be well again."""
        mutation = self.subject.mutation(seed, self.answers)
        self._send(mutation)
        failed, findings = self._run("")
        after = self._look()
        findings += self._changed_though_refused(failed, after)
        findings += self._judge(after)
        self._send(None)
        outcome = self._outcome(failed, after)
        if outcome == "refused" and not self._is_paged and all(name.startswith("landing/") for name in failed):
            return Verdict(seed, mutation.what, outcome, tuple(findings))  # nothing is there that could stay
        again, still = self._run("when the source was well again: ")
        if any("it shrank by more than" in why for why in again.values()):
            # After a file with much too long a text: the message asks a person, who says that it is right.
            for name in self._specs:
                self.house.lake.delete(f"{name}/current.json")
            again, still = self._run("when the source was well again: ")
        findings += still
        findings += [f"when the source was well again: {why}" for why in again.values()]
        if after != self.reference or again:
            now = self._look()
            differ = [name for name in self._differ(now) if not self.subject.has_history or name in self._current]
            findings += [f"when the source was well again: {name} is another" for name in differ]
            if self.subject.has_history:
                self._put_back()
        return Verdict(seed, mutation.what, outcome, tuple(findings))

    def _send(self, mutation: Mutation | None) -> None:
        """Let the source be spoilt; or well again, without a mutation."""
        if self.subject.dropped is not None:
            good = (self.house.data / self.subject.dropped).read_bytes()
            change = mutation and mutation.fault.change
            (self.house.home.parent / _DROPPED / "file.csv").write_bytes(change(good) if change else good)
        elif self.subject.database is not None:
            self._show_database(self.subject.database, mutation)
        elif mutation is None:
            self.house.faults.clear()
        else:
            self.house.faults.always(mutation.answer.path, mutation.fault, mutation.answer.query)

    def _show_database(self, source: str, mutation: Mutation | None) -> None:
        """Let the source be the good database, or a copy of it that is spoilt."""
        assert self.house.cluster is not None
        good, variable = self.house.databases[source], f"ETL_{source.upper()}_URL"
        spoilt = f"{good}_spoilt"
        os.environ[variable] = os.environ[variable].replace(spoilt, good)
        self.house.cluster.drop_database(spoilt)
        if mutation is None or mutation.spoil is None:
            return
        with psycopg.connect(self.house.cluster.create_database(spoilt, template=good)) as connection:
            mutation.spoil(connection)
        os.environ[variable] = os.environ[variable].replace(good, spoilt)

    def _keep(self) -> None:
        """Keep a copy of lake and warehouse as they are."""
        shutil.copytree(self.house.lake.url, f"{self.house.lake.url}-kept")
        self._copy_warehouse("", "_kept")

    def _put_back(self) -> None:
        """Let lake and warehouse be what was kept."""
        shutil.rmtree(self.house.lake.url)
        shutil.copytree(f"{self.house.lake.url}-kept", self.house.lake.url)
        self._copy_warehouse("_kept", "")

    def _copy_warehouse(self, of: str, to: str) -> None:
        """Copy the database; whoever has a connection with it loses that."""
        assert self.house.cluster is not None
        name = urlsplit(self.house.warehouse_url).path[1:]
        with psycopg.connect(self.house.cluster.url("postgres")) as connection:
            end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(end, (name + of,))
        self.house.cluster.drop_database(name + to)
        self.house.cluster.create_database(name + to, template=name + of)

    # --- running

    def _run(self, when: str) -> tuple[dict[str, str], list[str]]:
        """One run: why assets failed, and what of that should not be."""
        known = {run.run_id for run in self.house.instance.get_runs()}
        findings: list[str] = []
        try:
            self.house.run(anew=True)
        except Exception:  # noqa: BLE001 - whatever comes out of a run is what is looked for
            findings.append(f"{when}the run died: {traceback.format_exc()}")
        failed: dict[str, str] = {}
        for run in self.house.instance.get_runs():
            if run.run_id in known:
                continue
            for record in self.house.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
                event = record.dagster_event
                assert event is not None
                why = why_step_failed(event)
                name = str(event.step_key).replace("__", "/", 1)
                failed[name] = why
                findings.extend(f"{when}{name}: {fault}" for fault in self._faults_of(event, name, why))
        if "\x1b" in self.house.printed:
            findings.append(f"{when}the terminal gets an escape sequence")
        return failed, findings

    def _faults_of(self, event: dg.DagsterEvent, name: str, why: str) -> Iterator[str]:
        """What is wrong with the way in which a step failed."""
        data = event.step_failure_data
        error = data.error
        while data.user_failure_data is None and error is not None and error.cause is not None:
            error = error.cause
        if data.user_failure_data is None and not (error and error.message.startswith("etl_assets.")):
            yield f"a foreign error: {error.to_string() if error else why}"
            return
        dataset, table = self._specs[name].dataset.name, name.replace("/", ".")
        if dataset not in why and table not in why:
            yield f"the message names neither dataset nor table: {why}"
        if name.startswith(("landing/", "raw/")) and not _FILE.search(why):
            yield f"the message names no file: {why}"
        if len(why) > _LONGEST_MESSAGE:
            yield f"the message has {len(why)} signs"

    def _outcome(self, failed: Mapping[str, str], after: Contents) -> str:
        landed = [spec for spec in self._specs.values() if isinstance(spec.source, WatchedFolder)]
        left = [spec for spec in landed if not self.house.check(spec.key.to_user_string(), "files").passed]
        if left or failed or any(outcome.failures for outcome in self.house.outcomes.values()):
            return "refused"
        changed = self._differ(after)
        if any(name.startswith("quarantine.") for name in changed):
            return "quarantined"
        return "published" if changed else "unchanged"

    # --- judging

    def _changed_though_refused(self, failed: Mapping[str, str], after: Contents) -> Iterator[str]:
        """Tables, or partitions of them, that changed although their step failed for them."""
        for name in failed:
            spec = self._specs[name]
            if spec.table is None:
                continue
            for table in (spec.table.full_name, f"quarantine.{spec.table.name}"):
                before, now = self.reference.get(table, {}), after.get(table, {})
                changed = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
                refused = changed - self._published(spec) if spec.partitions is not None else changed
                if refused and not (table.startswith("quarantine.") and spec.table.stage == "presentation"):
                    yield f"{table} changed although {name} failed: {sorted(refused)[:3]}"

    def _published(self, spec: Spec) -> set[str]:
        """The partitions that the last run of an asset has published."""
        found = self.house.instance.fetch_materializations(spec.key, limit=200).records
        last = self.house.instance.get_runs(limit=8)
        ids = {run.run_id for run in last}
        return {str(record.partition_key) for record in found if record.run_id in ids}

    def _judge(self, after: Contents) -> Iterator[str]:
        """What has to be so whatever was sent."""
        if self.house.value("SELECT to_regclass('fuzz_canary')") is None:
            yield "a value was run as SQL"
        if any(self.house.home.parent.rglob("fuzz_escaped*")):
            yield "a value was taken for a path"
        book = self.house.sql("SELECT asset, partition, rows FROM etl.publications")
        told = {(asset, key): rows for asset, key, rows in book}
        for table in self._tables:
            name = table.full_name
            if after.get(name) == self.reference.get(name):
                continue
            in_lake = self.house.lake.partition_frames(table, sorted(self.house.lake.partitions(table)))
            facts = self.house.lake.facts(table, in_lake)
            for key, frame in in_lake.items():
                rows = Counter(_texts(frame))
                if rows != after[name].get(key, Counter()):
                    only = [*(rows - after[name].get(key, Counter())), *(after[name].get(key, Counter()) - rows)]
                    yield f"{name} {key}: lake and warehouse differ: {[row[:300] for row in only[:2]]}"
                if facts[key].rows != frame.height or told.get((name, key)) != frame.height:
                    yield f"{name} {key}: the bookkeeping says {facts[key].rows} and {told.get((name, key))} rows"
                if table.stage not in ("raw", "quarantine") and [facts[key].content_hash] != content_hashes([
                    frame.select([column.name for column in table.columns])
                ]):  # fmt: skip
                    yield f"{name} {key}: the lake's object is not what its bookkeeping says"
            if gone := [key for key, rows in after[name].items() if rows and key not in in_lake]:
                yield f"{name}: not in the lake: {gone[:3]}"
            if table.full_name in self._contracts:
                yield from _breaches(self._contracts[name], pl.concat(in_lake.values(), how="diagonal_relaxed"))
        yield from self._unaccounted(after)

    def _unaccounted(self, after: Contents) -> Iterator[str]:
        """Rows in = rows out + quarantined + merged, by what is there: merged ones have an equal that is there."""
        for spec in self._specs.values():
            if spec.table is None or spec.table.stage != "refined" or self._failed_or_waits(spec):
                continue
            source = spec.inputs.get("raw") or next(iter(spec.inputs.values()))
            if source.table is None or ROW_HASH not in [column.name for column in source.table.columns]:
                continue  # the stage counts by itself
            raw = source.table.full_name
            hashes = self.house.sql(
                sql.SQL("SELECT count(*), count(DISTINCT (_partition, _row_hash)) FROM {}")
                .format(sql.Identifier("raw", raw.partition(".")[2]))
                .as_string()
            )[0]
            names = {spec.table.full_name, f"quarantine.{spec.table.name}"}
            if raw.partition(".")[2] != spec.table.name:
                names.add(f"quarantine.{raw.partition('.')[2]}")
            there = sum(rows.total() for name in names for rows in after.get(name, {}).values())
            # Records that differ only in what nobody reads are merged, too.
            merged = self.house.check(spec.key.to_user_string(), "balance").metadata["merged"].value
            if not min(hashes[1], hashes[0] - merged) <= there <= hashes[0]:
                yield f"{spec.table.full_name}: {hashes[0]} records, {hashes[1]} different ones, {there} accounted for"

    def _failed_or_waits(self, spec: Spec) -> bool:
        outcomes = self.house.outcomes
        upstream = [spec.key, *(source.key for source in spec.inputs.values())]
        return any(outcomes[k.to_user_string()].failures for k in upstream if k.to_user_string() in outcomes)

    def _differ(self, now: Contents) -> list[str]:
        return sorted(n for n in now.keys() | self.reference.keys() if now.get(n) != self.reference.get(n))

    # --- looking

    def _look(self) -> Contents:
        """What every table of the warehouse holds, by partition, without provenance."""
        found: Contents = {}
        with psycopg.connect(self.house.warehouse_url) as connection:
            connection.execute("SET TIME ZONE 'UTC'")
            there = {name for (name,) in connection.execute("SELECT schemaname || '.' || tablename FROM pg_tables")}
            for table in self._tables:
                if table.full_name not in there:
                    continue
                place = sql.Identifier(table.stage, table.name)
                query = sql.SQL("SELECT {key} AS fuzz_key, whole.* FROM {place} AS whole")
                cursor = connection.execute(query.format(key=partition_key(table.partitioning), place=place))
                names = [column.name for column in cursor.description or ()]
                parts: dict[str, Counter[str]] = {}
                for key, *values in cursor.fetchall():
                    parts.setdefault(key, Counter())[_text(names[1:], values)] += 1
                found[table.full_name] = parts
        return found

    @cached_property
    def _is_paged(self) -> bool:
        return any(isinstance(spec.source, PagedSource) for spec in self._specs.values())

    @cached_property
    def _specs(self) -> dict[str, Spec]:
        return {spec.key.to_user_string(): spec for spec in in_order(self.subject.datasets)}

    @cached_property
    def _tables(self) -> list[Table]:
        own = [spec.table for spec in self._specs.values() if spec.table]
        return [*own, *(quarantine_table(name) for name in {t.name for t in own if t.stage != "presentation"})]

    @cached_property
    def _current(self) -> set[str]:
        """The tables that are made of a history, and have its newest versions only."""
        return {
            s.table.full_name
            for s in self._specs.values()
            if s.table and s.table.stage == "refined" and "history" in s.inputs
        }

    @cached_property
    def _contracts(self) -> dict[str, type[Contract]]:
        found, waiting = {}, list(Contract.__subclasses__())
        for contract in waiting:
            waiting.extend(contract.__subclasses__())
            if contract.place().table:
                found[storage_table(contract).full_name] = contract
        return found


def _definitions(subject: Subject) -> dg.Definitions:
    """What is loaded of the project: what a subject needs. Dagster looks at all that is loaded for every run."""
    needed = {spec.key for spec in in_order(subject.datasets)}
    assets = [asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition) and asset.key in needed]
    return dg.Definitions(assets=assets, resources=defs.resources, loggers=defs.loggers)


def _texts(frame: pl.DataFrame) -> Iterator[str]:
    return (_text(frame.columns, row) for row in frame.rows())


def _text(names: list[str], values: Any) -> str:
    """A row as text, the same from lake and warehouse: without provenance, and without what is null."""
    own = (
        (n, v)
        for n, v in zip(names, values, strict=True)
        if v is not None and (not n.startswith("_") or n == "_partition")
    )
    return "; ".join(f"{name}={_told(name, value)}" for name, value in sorted(own, key=lambda pair: pair[0]))


def _told(name: str, value: Any) -> str:
    if name == "geometry" and isinstance(value, str) and re.fullmatch("[0-9A-F]{10,}", value):
        shape = shapely.from_wkb(value, on_invalid="ignore")  # a column of the source may have that name too
        value = shapely.to_wkb(shape, byte_order=1, include_srid=False) or value
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def _breaches(contract: type[Contract], frame: pl.DataFrame) -> Iterator[str]:
    """What of a published table breaks its contract."""
    found = audit(frame.select(list(contract.columns())), contract)
    name = f"{contract.place().stage}.{contract.place().table}"
    yield from (f"{name}: published, and the contract says: {error}" for error in found.errors)
    if found.rejected.height:
        yield f"{name}: published, and breaks the contract: {found.failures.head(3).to_dicts()}"


@contextmanager
def campaign(subject: Subject, sample: Path, folder: Path, cluster: Cluster) -> Generator[Campaign]:
    """A house of a subject's own in a folder, with its good publication."""
    data, as_of, faults, database = folder / "data", folder / "as_of", Faults(), f"fuzz_{folder.name}"
    shutil.copytree(sample, data)
    subject.prepare(data)
    as_of.write_text("2025-03-05")
    (folder / _DROPPED).mkdir()
    url = cluster.create_database(database)
    with (
        pytest.MonkeyPatch.context() as patch,
        serve(data, as_of=as_of, handler=faults.handler(), routes=PAGED, token=_TOKEN) as sources,
        ephemeral() as instance,
    ):
        settings = {
            "ETL_HOME": str(folder / "home"),
            "ETL_WAREHOUSE_URL": url,
            "ETL_LAKE_URL": str(folder / "lake"),
            "ETL_LOCAL_SOURCES_URL": sources,
            "ETL_RETAIL_TOKEN": _TOKEN,
            "ETL_RETAIL_SALES_FOLDER": str(folder / _DROPPED),
            "ETL_HTTP_RETRY_WAIT": "0",
            "ETL_HTTP_ATTEMPTS": "2",
            "ETL_HTTP_TIMEOUT": "5",
            **{name: f"{sources}/{path}" for name, path in (subject.settings or {}).items()},
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        house = House(folder / "home", data, url, as_of, faults, instance, _definitions(subject), cluster=cluster)
        made = Campaign(subject, house)
        made.prepare()
        yield made
        house.close()
    for name in (database, f"{database}_kept"):
        cluster.drop_database(name)
