"""Tables of a PostgreSQL database, read as batches: one extract shows all tables at the same moment.

Here: what has changed since the last batch, by table, and streaming it into Parquet. Not here: where batches are kept
(etl_assets.storage.landing), and what the rows mean.

A small table is read whole and compared with what was landed of it: that finds deletes, and updates that no column
reveals. A large one is read from its watermark on, the greatest time of change that was landed; its index finds those
rows, and no others are read. What a watermark cannot see (deletes; rows that were committed late or stamped by a clock
that ran backwards) is found by comparing the table's keys and times of change with the landed ones: once in a while,
and at once when the database's own counters show more written rows than were read.

Values are landed as the database writes them (numbers exact, times of day without guessing their zone); whole numbers
are landed as such.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from psycopg import sql

from etl_assets.sources import Fetched, SourceRefusedError, Validators, Workspace
from etl_assets.sources.postgres import address, begin_snapshot, connected
from etl_assets.sources.records import check_columns, column_name

#: The column of a landed file that marks a row as gone from the source; of such a row, only the key is there.
DELETED = "_deleted"
#: Batches are named by the moment (UTC) of their snapshot, by the database's clock, so their names sort in batch order.
BATCH_FORMAT = "%Y-%m-%dT%H%M%S.%fZ"
_WHOLE_NUMBERS = ("smallint", "integer", "bigint")
#: Bytes of rows in one piece of a stream, of which at most two are held at once, however large the table is.
_HELD = 16 << 20
_KEYS_AT_ONCE = 10_000
#: At most so many rows at the watermark are remembered, by their hashes; more are looked up in what was landed.
_REMEMBERED = 100_000
_EVERY_ROW: sql.Composable = sql.SQL("")


@dataclass(frozen=True)
class SourceTable:
    """A table of the source: its key (one column of whole numbers), and the columns that have to be there.

    `changed` is the indexed column that says when a row was last changed: the table is read from its watermark on, and
    its keys are compared when `compare_every` has passed. Without it, the table is read whole every time.
    """

    name: str
    key: str
    columns: Sequence[str]
    changed: str | None = None
    compare_every: timedelta = timedelta(days=1)


@dataclass
class _Extract:
    """The outcome of reading one table."""

    rows: int = 0
    deleted: int = 0
    compared: bool = False
    #: Rows that had been landed before, if the table was compared with them.
    known: int = 0
    #: For a table with a watermark: what the next extract has to know.
    state: dict[str, Any] = field(default_factory=dict)


class _Comparison(NamedTuple):
    """A table beside what was landed of it and just read: rows that differ, keys that are gone, rows landed before."""

    missed: pl.DataFrame
    gone: pl.DataFrame
    landed: int


def _refuse_the_future(source: str, moment: datetime) -> None:
    """Refuse a database clock that is over a day ahead: it names the batches, and their names give their order."""
    now = datetime.now(UTC).replace(tzinfo=None)
    if moment > now + timedelta(days=1):
        raise SourceRefusedError(
            f"The database {source}: its clock, or the name of its last batch, says {moment:%Y-%m-%d %H:%M}, but this "
            f"machine's clock says {now:%Y-%m-%d %H:%M} (UTC). Nothing was landed; correct the one that is wrong."
        )


@dataclass(frozen=True)
class DatabaseSource:
    """Tables of the database that the setting ETL_<SOURCE>_URL names."""

    source: str
    tables: Sequence[SourceTable]

    suffix = ".parquet"

    def probe(self, known: Validators | None) -> str | None:
        """See `Source.probe`. No table is read through: the database itself counts the rows written to it."""
        with connected(self.source) as connection:
            version = self._version(connection, self._counters(connection))
        return None if known and known.etag == version else version

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """See `Source.fetch`: a folder with a file for each table in which anything has changed, maybe none."""
        with connected(self.source) as connection:
            # Before the snapshot: what is written between the two is seen twice rather than never.
            counters = self._counters(connection)
            version = self._version(connection, counters)
            connection.commit()
            begin_snapshot(connection)
            moment = _one(connection, "SELECT now() AT TIME ZONE 'UTC'")
            if work.batches:  # if the clock was put back, batches still keep the order in which they were read
                moment = max(moment, datetime.strptime(max(work.batches), BATCH_FORMAT) + timedelta(microseconds=1))  # noqa: DTZ007 - UTC
            _refuse_the_future(self.source, moment)
            reading = _Reading(self, connection, work, moment)
            found = {table.name: reading.extract(table, counters.get(table.name)) for table in self.tables}
            url = address(connection)
        return Fetched(
            work.folder,
            url,
            Validators(etag=version),
            batch=moment.strftime(BATCH_FORMAT),
            facts={
                name: {"rows": e.rows, "deleted": e.deleted, "compared": e.compared, "known": e.known}
                for name, e in found.items()
            },
            state={name: e.state for name, e in found.items() if e.state},
        )  # fmt: skip

    def _counters(self, connection: psycopg.Connection) -> dict[str, list[int]]:
        """By table, the rows inserted, updated and deleted so far, as the database counts them; and the table's file.

        TRUNCATE changes no count, but gives a table another file.
        """
        query = (
            "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, coalesce(pg_relation_filenode(relid), 0)::bigint"
            " FROM pg_stat_user_tables WHERE schemaname = 'public'"
        )
        names = {table.name for table in self.tables}
        found = connection.execute(query).fetchall()
        return {name: list(counts) for name, *counts in found if name in names}

    def _version(self, connection: psycopg.Connection, counters: Mapping[str, Sequence[int]]) -> str:
        """What tells one state of the source from another; for replicas and views, which have no counts, watermarks."""
        marks = []
        for table in self.tables:
            if table.changed:
                statement = sql.SQL("SELECT max({})::text FROM {}").format(
                    sql.Identifier(table.changed), sql.Identifier("public", table.name)
                )
                try:
                    marks.append(str(_one(connection, statement)))
                except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):  # the extract reports it
                    connection.rollback()
        columns = connection.execute(
            "SELECT relname, array_agg(attname || ' ' || atttypid ORDER BY attnum) FROM pg_attribute"
            " JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = to_regnamespace('public')"
            " AND relname = ANY(%s) AND attnum > 0 AND NOT attisdropped GROUP BY 1 ORDER BY 1",
            ([table.name for table in self.tables],),
        ).fetchall()  # a change of columns writes no row
        text = f"{sorted((name, *counts) for name, counts in counters.items())} {marks} {columns}"
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Reading:
    """One extract in progress: everything is read in one snapshot."""

    source: DatabaseSource
    connection: psycopg.Connection
    work: Workspace
    moment: datetime
    #: The source's name of a column, by table and the house's name of it.
    originals: dict[tuple[str, str], str] = field(default_factory=dict)

    def extract(self, table: SourceTable, counters: list[int] | None) -> _Extract:
        """Write what has changed of a table into the workspace, if anything has."""
        columns = self._columns(table)
        if table.changed is None:
            return self._whole(table, columns)
        return self._changes(table, columns, counters or [])

    def _columns(self, table: SourceTable) -> dict[str, str]:
        """The types of the table's columns (for a domain, the one beneath), by the columns' names in the house.

        Raises SourceRefusedError if required columns are missing, or the key or time of change has an unfit type.
        """
        found: dict[str, str] = dict(
            self.connection.execute(
                "SELECT attname, format_type(coalesce(nullif(typbasetype, 0), atttypid), NULL) FROM pg_attribute"
                " JOIN pg_type t ON t.oid = atttypid"
                " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                (sql.Identifier("public", table.name).as_string(),),
            ).fetchall()
        )
        database = f"database {self.source.source}"
        name = f"{database}, table {table.name}"
        if not found:
            raise SourceRefusedError(
                f"There is no table {table.name} in the {database}, schema public. Nothing was landed."
            )
        if missing := [column for column in table.columns if column not in found]:
            raise SourceRefusedError(
                f"{name}: required columns are missing: {missing}. It has: {list(found)}. If the source has renamed "
                "them, teach the dataset the new names; nothing was landed, the last good state stays."
            )
        if found[table.key] not in _WHOLE_NUMBERS:
            raise SourceRefusedError(
                f"{name}: the key {table.key} is {found[table.key]}, but must be one of {_WHOLE_NUMBERS}. Nothing "
                "was landed, the last good state stays."
            )
        if table.changed and found[table.changed] in _WHOLE_NUMBERS:
            raise SourceRefusedError(
                f"{name}: {table.changed} is {found[table.changed]}, but must be the time of a row's last change. "
                "Nothing was landed, the last good state stays."
            )
        named = {original: column_name(original, position) for position, original in enumerate(found, 1)}
        check_columns(name, list(named.values()))
        self.originals.update(((table.name, own), original) for original, own in named.items())
        return {named[original]: kind for original, kind in found.items()}

    # --- whole tables

    def _whole(self, table: SourceTable, columns: Mapping[str, str]) -> _Extract:
        path = self.work.folder / f"{table.name}.parquet"
        self._copy(table, self._select(table, columns), columns, path)
        there, known = pl.read_parquet(path), self._landed(table)
        path.unlink()
        self._refuse_twins(table, there)
        changed = there
        # A column that the source has dropped is null in every row once the drop has been landed.
        known = known.select(c for c in known.columns if c in columns or known[c].null_count() < known.height)
        if set(columns) == set(known.columns):  # else every row has changed
            # A value is the same as long as it reads the same, even if its column has become text.
            other = [pl.col(name).cast(pl.String) for name in columns if there.schema[name] != known.schema[name]]
            there, known = there.with_columns(other), known.with_columns(other)
            changed = there.join(known, on=list(columns), how="anti", nulls_equal=True)
        gone = known.select(table.key).join(there, on=table.key, how="anti") if known.width else pl.DataFrame()
        _write(path, changed, gone)
        return _Extract(rows=changed.height, deleted=gone.height, compared=True, known=known.height)

    def _refuse_twins(self, table: SourceTable, there: pl.DataFrame) -> None:
        """Refuse two rows with one key, as views may have them: one would be taken for a change of the other.

        A twin that is written later, and read without the other, is found the next time rows are compared.
        """
        keys = there[table.key]
        if (twice := keys.filter(keys.is_duplicated()).unique().sort()).len():
            raise SourceRefusedError(
                f"database {self.source.source}, table {table.name}: {twice.len()} values of the key {table.key} "
                f"occur more than once, such as {twice[0]}. Nothing was landed, the last good state stays."
            )

    def _landed(self, table: SourceTable, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The last landed state of a table (of some of its columns); a frame without columns if there is none."""
        frames = []
        for path in self.work.landed(table.name):
            there = pl.read_parquet_schema(path)
            frames.append(pl.read_parquet(path, columns=[c for c in columns if c in there] if columns else None))
        if not frames:
            return pl.DataFrame()
        rows = pl.concat(frames, how="diagonal_relaxed").unique(table.key, keep="last", maintain_order=True)
        return rows.filter(~pl.col(DELETED)).drop(DELETED)

    # --- changes

    def _changes(self, table: SourceTable, columns: Mapping[str, str], counters: list[int]) -> _Extract:
        assert table.changed is not None
        path = self.work.folder / f"{table.name}.parquet"
        before = self.work.state.get(table.name, {})
        mark, since = before.get("watermark"), _EVERY_ROW
        if mark is not None:
            since = sql.SQL("WHERE {} >= {}").format(sql.Identifier(table.changed), sql.Literal(mark))
        # The rows at the watermark are read again: only those not seen before are landed.
        query, seen = self._select(table, columns, since), self._seen(table, before)
        rows, again = self._copy(table, query, columns, path, without=seen)
        self._refuse_twins(table, pl.read_parquet(path, columns=[table.key]))
        # In another form every row has another hash: rows are landed again, and the counters can no longer tell whether
        # others changed.
        form = _form(columns)
        compared = before.get("form") != form or self._has_to_compare(table, before, counters, rows)
        found = _Comparison(pl.DataFrame(), pl.DataFrame(), 0)
        if compared and self.work.batches:
            found = self._compare(table, columns, path)
        if found.missed.height:
            pl.concat([pl.read_parquet(path), found.missed], how="diagonal_relaxed").write_parquet(path)
            rows += found.missed.height
        state = {
            **_mark(path, table.changed, mark, again, str(self.moment)),
            "form": form,
            "counters": counters,
            "compared_at": str(self.moment) if compared else before["compared_at"],
        }
        if found.gone.height:
            _write(path, pl.read_parquet(path), found.gone)
        elif not rows:
            path.unlink()
        return _Extract(rows, found.gone.height, compared, known=found.landed, state=state)

    def _seen(self, table: SourceTable, before: Mapping[str, Any]) -> Collection[int]:
        """The hashes of the rows at the watermark; if they were too many to remember, from what was landed."""
        seen: Collection[int] | None = before.get("seen", ())
        if seen is None:
            assert table.changed is not None
            hashes = (_hashes(path, table.changed, before["watermark"]) for path in self.work.landed(table.name))
            seen = set[int]().union(*hashes)
        return seen

    def _has_to_compare(self, table: SourceTable, before: Mapping[str, Any], counters: list[int], rows: int) -> bool:
        """Whether there may be changes that a watermark misses: it is time, or more was written than was read."""
        last = datetime.fromisoformat(before["compared_at"])
        if abs(self.moment - last) >= table.compare_every:
            return True
        if not counters or not before["counters"]:
            return False
        written = [now - then for now, then in zip(counters[:3], before["counters"][:3], strict=True)]
        inserted, updated, deleted = written
        is_another_file = counters[3:] != before["counters"][3:]
        return is_another_file or min(written) < 0 or deleted > 0 or inserted + updated > rows

    def _compare(self, table: SourceTable, columns: Mapping[str, str], path: Path) -> _Comparison:
        """Compare keys and times of change with those that were landed, or are in the file just read."""
        assert table.changed is not None
        few = {name: columns[name] for name in (table.key, table.changed)}
        compared = self.work.folder / f".{table.name}.parquet"
        self._copy(table, self._select(table, few), few, compared)
        there = pl.read_parquet(compared, columns=list(few))
        self._refuse_twins(table, there)
        now = pl.read_parquet(path, columns=list(few))
        landed = self._landed(table, [*few, DELETED])
        known = pl.concat([landed, now]).unique(table.key, keep="last") if landed.width else now
        gone = known.select(table.key).join(there, on=table.key, how="anti")
        other = there.join(known, on=list(few), how="anti", nulls_equal=True)[table.key]
        missed = [now.clear()]
        for part in other.to_frame().iter_slices(_KEYS_AT_ONCE):
            wanted = sql.Literal(part[table.key].to_list())
            where = sql.SQL("WHERE {} = ANY({})").format(sql.Identifier(table.key), wanted)
            self._copy(table, self._select(table, columns, where), columns, compared)
            missed.append(pl.read_parquet(compared))
        compared.unlink()
        return _Comparison(pl.concat(missed, how="diagonal_relaxed"), gone, landed.height)

    # --- files

    def _select(self, table: SourceTable, columns: Iterable[str], where: sql.Composable = _EVERY_ROW) -> sql.Composed:
        names = [sql.Identifier(self.originals[table.name, own]) for own in columns]
        place = sql.Identifier("public", table.name)
        return sql.SQL("SELECT {} FROM {} {}").format(sql.SQL(", ").join(names), place, where)

    def _copy(
        self,
        table: SourceTable,
        query: sql.Composable,
        columns: Mapping[str, str],
        path: Path,
        without: Collection[int] = (),
    ) -> tuple[int, dict[int, str]]:
        """Stream a query's rows, with `_deleted` false, into a Parquet file; return how many were written.

        Rows whose hash is in `without` are left out; returned too are their hashes, with the times of change. Raises
        SourceRefusedError for a row without a key.
        """
        types = {name: pa.int64() if kind in _WHOLE_NUMBERS else pa.large_string() for name, kind in columns.items()}
        options = pyarrow.csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        schema = pa.schema([*types.items(), (DELETED, pa.bool_())])
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(query)
        again: dict[int, str] = {}
        with (
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
            self.connection.cursor().copy(statement) as copy,
            ThreadPoolExecutor(1, thread_name_prefix="landing") as pool,
        ):

            def write(data: bytes) -> int:
                rows = pyarrow.csv.read_csv(
                    pa.BufferReader(data),
                    # As one block: a value must not lie in more than two.
                    pyarrow.csv.ReadOptions(column_names=list(columns), block_size=len(data)),
                    pyarrow.csv.ParseOptions(newlines_in_values=True),
                    options,
                )
                if rows[table.key].null_count:
                    raise SourceRefusedError(
                        f"database {self.source.source}, table {table.name}: {rows[table.key].null_count} rows have no "
                        f"value for the key {table.key}. Nothing was landed, the last good state stays."
                    )
                if without and table.changed:
                    hashes = _hashed(rows)
                    is_known = hashes.is_in(list(without))
                    changed = rows[table.changed].filter(pa.array(is_known))
                    again.update(zip(hashes.filter(is_known).to_list(), changed.to_pylist(), strict=True))
                    rows = rows.filter(pa.array(~is_known))
                writer.write_table(rows.append_column(DELETED, pa.repeat(False, len(rows))).cast(schema))
                return len(rows)

            # While one piece is written, the next one arrives; no more than these two are held.
            rows, written = 0, pool.submit(int)
            for data in _pieces(copy):
                rows += written.result()
                written = pool.submit(write, data)
            return rows + written.result(), again


def _write(path: Path, rows: pl.DataFrame, gone: pl.DataFrame) -> None:
    """Write changed rows and the keys of those that are gone, if there are any."""
    if rows.height or gone.height:
        gone = gone.with_columns(pl.lit(True).alias(DELETED))
        pl.concat([rows, gone], how="diagonal_relaxed").write_parquet(path, compression="zstd")


def _mark(path: Path, column: str, last: str | None, again: Mapping[int, str], moment: str) -> dict[str, Any]:
    """The watermark after an extract, and the hashes of the rows at it or after it; None if there are too many.

    Besides the file's rows there are those `again` in the source that had been seen before.
    """
    # A time in the future cannot be the watermark: rows written until then would lie before it.
    newest = pl.scan_parquet(path).select(pl.col(column).filter(pl.col(column) <= moment)).max().collect().item()
    # A row that was landed when its time was in the future, and is still there, moves it too, and stays known.
    passed = [changed for changed in again.values() if changed <= moment]
    watermark = max(filter(None, (last, newest, *passed)), default=None)
    since = watermark or ""
    seen = _hashes(path, column, since) | {row for row, changed in again.items() if changed >= since}
    return {"watermark": watermark, "seen": sorted(seen) if len(seen) <= _REMEMBERED else None}


def _form(columns: Mapping[str, str]) -> str:
    """What the hash of a row depends on besides its values."""
    return hashlib.sha256(f"{pl.__version__} {list(columns.items())}".encode()).hexdigest()[:16]


def _hashed(table: pa.Table) -> pl.Series:
    """A hash of every row; see `_form`."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.hash_rows()


def _hashes(path: Path, column: str, since: str) -> set[int]:
    """The hashes of a file's rows that were changed at `since` or after it."""
    late = pl.scan_parquet(path).filter(pl.col(column) >= since).drop(DELETED)
    return set(late.collect().hash_rows())


def _pieces(copy: psycopg.Copy) -> Iterator[bytes]:
    """The rows of a COPY, in pieces of about `_HELD` bytes."""
    held: list[Any] = []
    size = 0
    for row in copy:
        held.append(row)
        size += len(row)
        if size >= _HELD:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _one(connection: psycopg.Connection, query: Any) -> Any:
    found = connection.execute(query).fetchone()
    assert found
    return found[0]
