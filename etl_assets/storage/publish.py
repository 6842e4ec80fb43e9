"""Publish audited partitions: first into the lake, then into the warehouse together with their bookkeeping.

The order is what makes it safe to be killed anywhere: until the warehouse's transaction is committed the bookkeeping
still says the old thing, and the next run does the work again. Content that is there already is not written again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
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
        columns are added here. Another publisher of one of the tables waits until this one is done.
        """
        loaded_at = dt.datetime.now(dt.UTC)
        results: dict[str, list[Published]] = {}
        tables = [publication.table for publication in publications]
        with self.warehouse.writing(tables) as transaction:
            for table in tables:
                transaction.check(table)  # before anything is written, to the lake too
            for publication in publications:
                table = publication.table
                known = transaction.facts(table, [part.key for part in publication.parts])
                published, replaced = self._to_lake(table, publication.parts, known, run_id, loaded_at)
                results[table.full_name] = published
                if publication.whole is not None:
                    replaced.append(self._whole(table, published, publication.whole, run_id, loaded_at))
                transaction.replace(table, replaced)
        return results

    def _to_lake(
        self,
        table: Table,
        parts: Sequence[Part],
        known: Mapping[str, Facts],
        run_id: str,
        loaded_at: dt.datetime,
    ) -> tuple[list[Published], list[Replacement]]:
        # The lake is asked too: a run killed between lake and warehouse leaves the two different.
        in_lake = self.lake.facts(table, sorted(self.lake.partitions(table).keys() & {part.key for part in parts}))

        def one(part: Part) -> tuple[Published, Replacement | None] | None:
            old = known.get(part.key)
            there = in_lake.get(part.key)
            if table.sparse and part.frame.is_empty() and old is None and there is None:
                return None
            address = self.lake.address(self.lake.path(table, part.key))
            digest = part.digest or content_hash(part.frame)
            facts = Facts(part.key, part.frame.height, digest, part.made_from, run_id, loaded_at.isoformat())
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
        if not there or replace(Facts(**json.loads(there)), run_id=run_id, loaded_at=facts.loaded_at) != facts:
            self.lake.put(path, json.dumps(asdict(facts)).encode())
        return Replacement(facts, None)

    def restore(self, table: Table) -> tuple[int, int]:
        """Drop a table of the warehouse and load it from the lake, as it is there; gives partitions and rows."""
        known = self.lake.facts(table, sorted(self.lake.partitions(table)))
        keys, rows = sorted(known), 0
        with self.warehouse.writing([table]) as transaction:
            transaction.drop(table)
            for start in range(0, len(keys), _RESTORED_AT_ONCE):
                frames = self.lake.partition_frames(table, keys[start : start + _RESTORED_AT_ONCE])
                items = [Replacement(known[key], Part(key, f, known[key].made_from)) for key, f in frames.items()]
                transaction.replace(_as_stored(table, items), items)
                rows += sum(frame.height for frame in frames.values())
            data = self.lake.get(f"{table.stage}/{table.name}/{WHOLE_FACTS}")
            transaction.replace(table, [Replacement(Facts(**json.loads(data)), None)] if data else [])
        return len(keys), rows


def _as_stored(table: Table, items: Sequence[Replacement]) -> Table:
    """The table with the columns that its partitions have beyond the declared ones (raw tables follow their source)."""
    declared = {c.name for c in table.stored_columns()}
    found = dict.fromkeys(c for item in items if item.part for c in item.part.frame.columns)
    extra = [Column(c, "text", "As the source has it") for c in found if c not in declared]
    return replace(table, columns=(*extra, *table.columns)) if extra else table
