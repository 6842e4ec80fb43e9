"""Publish audited partitions: into the lake, and into the warehouse together with their bookkeeping.

The warehouse judges first, then the lake is written, and the commit comes last. So what the warehouse refuses cannot be
read anywhere, and being killed at any point is safe: until the commit, the warehouse and its bookkeeping keep the old
state, and the next run does the work again. Content that is already there is not written again.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, groupby

import numpy as np
import polars as pl

from etl_assets.storage.changes import compare
from etl_assets.storage.frames import sql_type, stored
from etl_assets.storage.hashes import content_hashes, sha256_of_lines
from etl_assets.storage.lake import CONCURRENCY, Lake, LakeError, Loaded, encode
from etl_assets.storage.table import WHOLE, Column, Facts, Part, Publication, Published, Table
from etl_assets.storage.transaction import Replacement, Transaction
from etl_assets.storage.warehouse import Warehouse

_RESTORED_AT_ONCE = 500
#: Rows that one thread hashes: small frames in many threads get in each other's way.
_HASHED_TOGETHER = 50_000


@dataclass(frozen=True)
class Book:
    """The bookkeeping in the lake that a table's objects do not hold themselves; it lies beside them.

    `whole` is for the table as a whole. `made_from` is for partitions that were made again from other inputs, with the
    same result: their objects stay, and still say what they were made from the first time.
    """

    whole: Facts | None = None
    made_from: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, lake: Lake, table: Table) -> Book:
        """The book of a table; empty if there is none."""
        data = lake.get(_book_path(table))
        found = json.loads(data) if data else {}
        return cls(Facts(**found["whole"]) if found.get("whole") else None, found.get("made_from", {}))

    def updated(self, replaced: Sequence[Replacement], whole: Facts | None) -> Book:
        """The book after partitions have been replaced or (those without a `frame`) found unchanged."""
        new = {item.facts.partition for item in replaced if item.frame is not None}
        same = {item.facts.partition: item.facts.made_from for item in replaced if item.frame is None}
        return Book(whole or self.whole, {k: v for k, v in self.made_from.items() if k not in new} | same)

    def write(self, lake: Lake, table: Table) -> None:
        """Write the book of a table."""
        lake.put(_book_path(table), json.dumps(asdict(self), sort_keys=True).encode())


@dataclass(frozen=True)
class Publisher:
    """Publishes to one lake and one warehouse, reads what was published, and restores a warehouse from its lake."""

    lake: Lake
    warehouse: Warehouse

    def read(
        self, table: Table, partitions: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> Loaded:
        """Partitions (default: all there are) as one frame, to make others from; see `Lake.read`.

        Raises LakeError if one was published and is not in the lake: what is made from the rest would be incomplete.
        """
        published = self._keys_on_record(table)
        found = self.lake.read(table, partitions, columns)
        self._refuse_lost(table, published, partitions, found.versions)
        return found

    def partition_frames(self, table: Table, partitions: Sequence[str]) -> dict[str, pl.DataFrame]:
        """Like `read`, but each partition as its own frame."""
        published = self._keys_on_record(table)
        found = self.lake.partition_frames(table, partitions)
        self._refuse_lost(table, published, partitions, found)
        return found

    def _keys_on_record(self, table: Table) -> set[str]:
        return self.warehouse.facts(table.full_name).keys() - ({WHOLE} if table.partitioning else set())

    def _refuse_lost(
        self, table: Table, published: set[str], wanted: Sequence[str] | None, found: Collection[str]
    ) -> None:
        absent = (published if wanted is None else published & set(wanted)) - set(found)
        # Asked before and after the read: what others publish or withdraw meanwhile is not lost.
        if absent and (lost := sorted(absent & self._keys_on_record(table))):
            raise LakeError(
                f"{table.full_name}: {len(lost)} of its partitions were published and are gone from the lake, such as "
                f"{self.lake.address(self.lake.path(table, lost[0]))}. `./dev run` makes them again, or materialize "
                "them; nothing is made from the others alone, and what was there stays. If they belong to a former "
                f"partitioning of the table, drop it: ./dev sql --write 'DROP TABLE {table.full_name}'."
            )

    def publish(self, publications: Sequence[Publication], run_id: str) -> dict[str, list[Published]]:
        """Publish partitions of one or more tables together; return the result for each partition, by table.

        The warehouse changes in one transaction. The partitions' frames hold the contract's columns; provenance
        columns are added here. Another publisher of one of the tables waits until this one is done.
        """
        loaded_at = dt.datetime.now(dt.UTC)
        tables = [publication.table for publication in publications]
        with (
            self.warehouse.writing(tables) as transaction,
            ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="publish") as pool,
        ):
            for table in tables:
                transaction.check(table)  # before anything is written
            publishing = _Publishing(self.lake, transaction, pool, run_id, loaded_at)
            try:
                results = {publication.table: publishing.replace(publication) for publication in publications}
                transaction.judge(tables)  # what the warehouse refuses must not reach readers of the lake
                sizes = publishing.write()
            finally:
                publishing.cancel()
        return {
            table.full_name: [replace(done, size=sizes.get(self.lake.path(table, done.key))) for done in published]
            for table, published in results.items()
        }

    def was_published(self, table: Table) -> bool:
        """Whether the lake has a table, even one without rows."""
        return bool(self.lake.partitions(table)) or Book.read(self.lake, table).whole is not None

    def restore(self, table: Table, *, is_made: bool = False) -> tuple[int, int]:
        """Drop a warehouse table and load it from the lake as it is there; return the number of partitions and of rows.

        A table without objects in the lake was never published and is not made, unless `is_made` says that it was.
        Raises LakeError, and leaves the table, if one of its objects is damaged. A table some of whose objects are gone
        is not recorded as whole: the next run makes it whole.
        """
        book = Book.read(self.lake, table)
        listed = sorted(self.lake.partitions(table))
        in_lake = self.lake.facts(table, listed)
        if damaged := [key for key in listed if key not in in_lake]:
            raise self.lake.damaged(self.lake.path(table, damaged[0]))
        known = {key: replace(f, made_from=book.made_from.get(key, f.made_from)) for key, f in in_lake.items()}
        keys, rows = sorted(known), 0
        with self.warehouse.writing([table]) as transaction:
            transaction.drop(table)
            if is_made and not keys:
                transaction.replace(table, [])
            for start in range(0, len(keys), _RESTORED_AT_ONCE):
                frames = self.lake.partition_frames(table, keys[start : start + _RESTORED_AT_ONCE])
                items = [Replacement(known[key], frame) for key, frame in frames.items()]
                transaction.replace(_as_stored(table, frames.values()), items)
                rows += sum(frame.height for frame in frames.values())
            digest = _hash_of_table({key: facts.content_hash for key, facts in known.items()})
            if book.whole and book.whole.content_hash == digest:
                transaction.replace(table, [Replacement(book.whole, None)])
        return len(keys), rows


@dataclass(frozen=True)
class _Publishing:
    """One call of `publish`: its transaction and threads, its run and time, and what it is going to write."""

    lake: Lake
    transaction: Transaction
    pool: ThreadPoolExecutor
    run_id: str
    loaded_at: dt.datetime
    #: What to write to the lake, once the warehouse has accepted it.
    objects: dict[str, Future[bytes]] = field(default_factory=dict)
    books: dict[Table, Book] = field(default_factory=dict)

    def replace(self, publication: Publication) -> list[Published]:
        """Replace a table's partitions in the warehouse, while their objects for the lake are encoded."""
        table = publication.table
        known = self.transaction.facts(table, [part.key for part in publication.parts])
        compared = self._compare(table, publication.parts, known)
        published = [done for done, _ in compared]
        replaced = [item for _, item in compared if item is not None]
        for item in replaced:
            if item.frame is not None:
                path = self.lake.path(table, item.facts.partition)
                self.objects[path] = self.pool.submit(encode, table, item.frame, item.facts)
        book, whole = Book.read(self.lake, table), None
        if publication.whole is not None:
            whole = self._whole(table, published, publication.whole, book.whole)
        self.transaction.replace(table, [*replaced, *([Replacement(whole, None)] if whole else [])])
        if (new := book.updated(replaced, whole)) != book:
            self.books[table] = new
        changes = {done.key: done.changes for done in published if done.changes}
        self.transaction.record(table, changes, self.run_id, self.loaded_at)
        return published

    def write(self) -> dict[str, int]:
        """Write to the lake what is to be written, and return the size of each object in bytes."""

        def put(path: str) -> int:
            data = self.objects[path].result()
            self.lake.put(path, data)
            return len(data)

        sizes = dict(zip(self.objects, self.pool.map(put, self.objects), strict=True))
        for table, book in self.books.items():
            book.write(self.lake, table)
        return sizes

    def cancel(self) -> None:
        """Cancel the encodings that have not started."""
        for encoding in self.objects.values():
            encoding.cancel()

    def _compare(
        self, table: Table, parts: Sequence[Part], known: Mapping[str, Facts]
    ) -> list[tuple[Published, Replacement | None]]:
        """The result of publishing each partition, and the replacement that it needs, if any."""
        # The lake is asked too: a run killed between lake and warehouse leaves the two different. What the warehouse
        # does not know is mostly not in the lake either, so a listing says which to read there. If nothing is unknown,
        # the listing is skipped: a long table's is long.
        unknown = {part.key for part in parts} - known.keys()
        listed = self.lake.partitions(table).keys() & unknown if unknown else set()
        in_lake = self.lake.facts(table, sorted(known.keys() | listed))
        digests = self._digests(parts)

        def compared(part: Part) -> tuple[Published, Facts | None] | None:
            return self._compare_one(table, part, digests[part.key], known.get(part.key), in_lake.get(part.key))

        found = [result for result in self.pool.map(compared, parts) if result is not None]
        new = {done.key for done, _ in found if done.changed}
        rows = self._stored(table, [part for part in parts if part.key in new])
        return [(done, Replacement(facts, rows.get(done.key)) if facts else None) for done, facts in found]

    def _compare_one(
        self, table: Table, part: Part, digest: str, known: Facts | None, in_lake: Facts | None
    ) -> tuple[Published, Facts | None] | None:
        """The result of publishing a partition, and the bookkeeping that is new with it; None if there is nothing."""
        if table.sparse and part.frame.is_empty() and known is None and in_lake is None:
            return None
        address = self.lake.address(self.lake.path(table, part.key))
        facts = self._facts(part.key, part.frame.height, digest, part.made_from)
        if known and in_lake and known.content_hash == digest == in_lake.content_hash:
            same = Published(part.key, part.frame.height, digest, False, address, None)
            return same, None if known.made_from == part.made_from else replace(known, made_from=part.made_from)
        changes = None
        if table.primary_key and known and in_lake and known.content_hash == in_lake.content_hash:
            before = self.lake.partition_frames(table, [part.key])[part.key]
            changes = compare(before, part.frame, table.primary_key)
        return Published(part.key, part.frame.height, digest, True, address, None, changes), facts

    def _whole(self, table: Table, published: Sequence[Published], made_from: str, known: Facts | None) -> Facts:
        """The bookkeeping of a whole table, including partitions that stay; the known one if it is still right."""
        found = {key: (f.rows, f.content_hash) for key, f in self.transaction.facts(table).items() if key != WHOLE}
        found |= {done.key: (done.rows, done.content_hash) for done in published}
        digest = _hash_of_table({key: content_hash for key, (_, content_hash) in found.items()})
        facts = self._facts(WHOLE, sum(rows for rows, _ in found.values()), digest, made_from)
        return known if known and replace(known, run_id=facts.run_id, loaded_at=facts.loaded_at) == facts else facts

    def _digests(self, parts: Sequence[Part]) -> dict[str, str]:
        """The content hash of every part."""
        found = {part.key: part.digest for part in parts if part.digest}
        others = [part for part in parts if not part.digest]
        so_far = accumulate(part.frame.height for part in others)
        cut = groupby(zip(others, so_far, strict=True), lambda item: item[1] // _HASHED_TOGETHER)
        groups = [[part for part, _ in group] for _, group in cut]
        hashes = self.pool.map(lambda group: content_hashes([part.frame for part in group]), groups)
        of_groups = zip(groups, hashes, strict=True)
        return found | {part.key: h for group, of in of_groups for part, h in zip(group, of, strict=True)}

    def _stored(self, table: Table, parts: Sequence[Part]) -> dict[str, pl.DataFrame]:
        """The parts' rows in their stored shape; made together, since each by itself takes as long as all."""
        if not parts:
            return {}
        whole = pl.concat([part.frame for part in parts])
        part_of_row = np.repeat(np.arange(len(parts)), [part.frame.height for part in parts])
        source = pl.Series([part.made_from for part in parts]).gather(part_of_row)
        rows = stored(whole, table, source=source, run_id=self.run_id, loaded_at=self.loaded_at)
        ends = accumulate(part.frame.height for part in parts)
        return {
            part.key: rows.slice(end - part.frame.height, part.frame.height)
            for part, end in zip(parts, ends, strict=True)
        }

    def _facts(self, partition: str, rows: int, content_hash: str, made_from: str) -> Facts:
        return Facts(partition, rows, content_hash, made_from, self.run_id, self.loaded_at.isoformat())


def _hash_of_table(hashes: Mapping[str, str]) -> str:
    """The content hash of a table, from those of its partitions."""
    return sha256_of_lines(f"{key} {hashes[key]}" for key in sorted(hashes))


def _book_path(table: Table) -> str:
    return f"{table.stage}/{table.name}/bookkeeping.json"


def _as_stored(table: Table, frames: Iterable[pl.DataFrame]) -> Table:
    """The table with the columns that its partitions have beyond the declared ones (raw tables follow their source)."""
    declared = {c.name for c in table.stored_columns()}
    found = {c: kind for frame in frames for c, kind in frame.schema.items() if c not in declared}
    extra = [Column(c, sql_type(kind), "As the source has it") for c, kind in found.items()]
    return replace(table, columns=(*extra, *table.columns)) if extra else table
