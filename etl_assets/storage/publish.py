"""Publish audited partitions: first into the lake, then into the warehouse together with their bookkeeping.

The order is what makes it safe to be killed anywhere: until the warehouse's transaction is committed the bookkeeping
still says the old thing, and the next run does the work again. Content that is there already is not written again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from etl_assets.storage.frames import content_hash, stored
from etl_assets.storage.lake import CONCURRENCY, Facts, Lake
from etl_assets.storage.table import WHOLE, Column, Part, Publication, Published, Table
from etl_assets.storage.warehouse import Replacement, Warehouse

#: Object beside a table's partitions that holds the bookkeeping of the table as a whole.
WHOLE_FACTS = "whole.json"
_RESTORED_AT_ONCE = 500


@dataclass(frozen=True)
class Publisher:
    """Publishes to one lake and one warehouse."""

    lake: Lake
    warehouse: Warehouse

    def publish(self, publications: Sequence[Publication], run_id: str) -> dict[str, list[Published]]:
        """Publish partitions of one or more tables together; gives, per table, what each partition came to.

        The warehouse changes in one transaction. The partitions' frames hold the contract's columns; provenance
        columns are added here.
        """
        loaded_at = dt.datetime.now(dt.UTC)
        results: dict[str, list[Published]] = {}
        replacements: dict[Table, list[Replacement]] = {}
        for publication in publications:
            table = publication.table
            published, replaced = self._to_lake(table, publication.parts, run_id, loaded_at)
            results[table.full_name] = published
            if publication.whole is not None:
                replaced.append(self._whole(table, published, publication.whole, run_id, loaded_at))
            if replaced:
                replacements[table] = replaced
        if replacements:
            self.warehouse.replace(replacements)
        return results

    def _to_lake(
        self, table: Table, parts: Sequence[Part], run_id: str, loaded_at: dt.datetime
    ) -> tuple[list[Published], list[Replacement]]:
        keys = [part.key for part in parts]
        known = self.warehouse.facts(table.full_name, keys)
        # The lake is asked too: a run killed between lake and warehouse leaves the two different.
        in_lake = self.lake.facts(table, known)

        def one(part: Part) -> tuple[Published, Replacement | None] | None:
            old = known.get(part.key)
            if table.sparse and part.frame.is_empty() and old is None:
                return None
            address = self.lake.address(self.lake.path(table, part.key))
            digest = part.digest or content_hash(part.frame)
            facts = Facts(part.key, part.frame.height, digest, part.made_from, run_id, loaded_at.isoformat())
            there = in_lake.get(part.key)
            if old and there and old.content_hash == digest == there.content_hash:
                same = Published(part.key, part.frame.height, digest, False, address, None)
                if old.made_from == part.made_from:
                    return same, None
                return same, Replacement(replace(old, made_from=part.made_from), None)
            frame = stored(part.frame, table, source=part.made_from, run_id=run_id, loaded_at=loaded_at)
            size = self.lake.write(table, frame, facts)
            done = Published(part.key, part.frame.height, digest, True, address, size)
            return done, Replacement(facts, Part(part.key, frame, part.made_from))

        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="publish") as pool:
            done = [result for result in pool.map(one, parts) if result is not None]
        return [published for published, _ in done], [r for _, r in done if r is not None]

    def _whole(
        self,
        table: Table,
        published: Sequence[Published],
        made_from: str,
        run_id: str,
        loaded_at: dt.datetime,
    ) -> Replacement:
        """The bookkeeping of a table that one step makes, beside that of its partitions."""
        lines = "\n".join(f"{p.key} {p.content_hash}" for p in published)
        digest = hashlib.sha256(lines.encode()).hexdigest()
        rows = sum(p.rows for p in published)
        facts = Facts(WHOLE, rows, digest, made_from, run_id, loaded_at.isoformat())
        path = f"{table.stage}/{table.name}/{WHOLE_FACTS}"
        there = self.lake.get(path)
        if not there or {**json.loads(there), "run_id": "", "loaded_at": ""} != {
            **asdict(facts),
            "run_id": "",
            "loaded_at": "",
        }:
            self.lake.put(path, json.dumps(asdict(facts)).encode())
        return Replacement(facts, None)

    def restore(self, table: Table) -> tuple[int, int]:
        """Drop a table of the warehouse and load it from the lake, as it is there; gives partitions and rows."""
        known = self.lake.facts(table, sorted(self.lake.partitions(table)))
        self.warehouse.drop(table)
        keys, rows = sorted(known), 0
        for start in range(0, len(keys), _RESTORED_AT_ONCE):
            batch = keys[start : start + _RESTORED_AT_ONCE]
            items = []
            for key, frame in self.lake.partition_frames(table, batch).items():
                items.append(Replacement(known[key], Part(key, frame, known[key].made_from)))
                rows += frame.height
            self.warehouse.replace({_as_stored(table, items): items})
        if data := self.lake.get(f"{table.stage}/{table.name}/{WHOLE_FACTS}"):
            self.warehouse.replace({table: [Replacement(Facts(**json.loads(data)), None)]})
        return len(keys), rows


def _as_stored(table: Table, items: Sequence[Replacement]) -> Table:
    """The table with the columns that its partitions have beyond the declared ones (raw tables follow their source)."""
    declared = {c.name for c in table.stored_columns()}
    found = dict.fromkeys(c for item in items if item.part for c in item.part.frame.columns)
    extra = [Column(c, "text", "As the source has it") for c in found if c not in declared]
    return replace(table, columns=(*extra, *table.columns)) if extra else table
