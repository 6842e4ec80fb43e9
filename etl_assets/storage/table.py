"""What storage knows of a table: its name, columns, keys and partitioning; and of its partitions, before and after.

Here: a partition that is ready to be published, the result of that, and the bookkeeping that stays, which is the same
in the lake and in the warehouse. Not here: how any of it is written or read.
"""

from __future__ import annotations

import calendar
import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Literal

import polars as pl

from etl_assets.storage.changes import Changes

SOURCE_ROW = "_source_row"
#: SHA-256 of the landed file that a record was read from, or of what a row was made from otherwise.
SOURCE_SHA256 = "_source_sha256"
#: Hash of a raw record's text: it says whether two records are the same.
ROW_HASH = "_row_hash"
PARTITION = "_partition"
#: The only partition of a table without partitions.
WHOLE = ""
#: A table of ten million rows is a hundred objects, and a change of some rows rewrites only the objects that hold them.
_BLOCK = 100_000


@dataclass(frozen=True)
class Geometry:
    """A geometry column's type (`Point`, `MultiPolygon`, …) and SRID; its values are WKB."""

    type: str
    srid: int


@dataclass(frozen=True)
class Reference:
    """The key column of another table that a column's values refer to."""

    stage: str
    table: str
    column: str


@dataclass(frozen=True)
class Column:
    """A column: its PostgreSQL type in the spelling of `format_type`, and what it means.

    `references` makes it a foreign key in the warehouse.
    """

    name: str
    sql: str
    description: str = ""
    nullable: bool = True
    geometry: Geometry | None = None
    references: Reference | None = None


#: Columns that every published row carries; they are not part of a row's content.
PROVENANCE = (
    Column(SOURCE_SHA256, "text", "SHA-256 of what the row was made from: its landed file, or its inputs", False),
    Column("_run_id", "text", "Dagster run that published the row", False),
    Column("_loaded_at", "timestamp with time zone", "When the row was published (UTC)", False),
)


@dataclass(frozen=True)
class Partitioning:
    """The column that says which partition a row belongs to, and how.

    `day`, `month` and `year` cut a date column into windows whose key is their first day (`2025-01-15`,
    `2025-01-01`); `value` takes a text column's value as the key. `year_number` is for an integer column
    that holds the year; its key is the year's first day as well. `block` cuts a column of whole numbers into blocks of
    a hundred thousand; the key is the first number of a block, with zeros before it (`000000200000`).
    """

    column: str
    every: Literal["day", "month", "year", "year_number", "block", "value"] = "value"

    def key(self) -> pl.Expr:
        """The partition key of every row, as text; null where the column is null."""
        column = pl.col(self.column)
        if self.every == "value":
            return column
        if self.every == "year_number":
            return column.cast(pl.String) + "-01-01"
        if self.every == "block":
            return (column // _BLOCK * _BLOCK).cast(pl.String).str.zfill(12)
        width = {"day": "1d", "month": "1mo", "year": "1y"}[self.every]
        return column.dt.truncate(width).dt.strftime("%Y-%m-%d")

    def may_have(self, key: str) -> bool:
        """Whether a key fits this partitioning; one that does not is from an earlier partitioning of the table."""
        if self.every == "value":
            return True
        try:
            self.window(key)
        except ValueError:
            return False
        if self.every == "block":
            return int(key) % _BLOCK == 0
        return key.endswith({"day": "", "month": "-01"}.get(self.every, "-01-01"))

    def window(self, key: str) -> tuple[dt.date, dt.date] | tuple[int, int]:
        """First and last value of a partition that is a window of time or a block of numbers.

        The last one, and not the first one after it: there is none after the year 9999.
        """
        if self.every == "block":
            return int(key), int(key) + _BLOCK - 1
        first = dt.date.fromisoformat(key)
        if self.every == "year_number":
            return first.year, first.year
        if self.every == "day":
            return first, first
        if self.every == "month":
            return first, first.replace(day=calendar.monthrange(first.year, first.month)[1])
        return first, first.replace(month=12, day=31)


@dataclass(frozen=True)
class Table:
    """A table of one stage: the same in the lake (`stage/name/`) and in the warehouse (`stage.name`)."""

    stage: str
    name: str
    columns: tuple[Column, ...]
    description: str = ""
    primary_key: tuple[str, ...] = ()
    partitioning: Partitioning | None = None
    #: A partition without rows leaves no object and no bookkeeping unless it had rows before.
    sparse: bool = False

    @property
    def full_name(self) -> str:
        """`stage.name`, for people and for bookkeeping."""
        return f"{self.stage}.{self.name}"

    def may_have(self, key: str) -> bool:
        """Whether a key fits the table's present partitioning."""
        return self.partitioning.may_have(key) if self.partitioning else key == WHOLE

    @property
    def geometry(self) -> Column | None:
        """The geometry column, if the table has one."""
        return next((c for c in self.columns if c.geometry), None)

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever a column's name, type or nullability, the primary key or the partitioning does."""
        shape = [(c.name, c.sql, c.nullable) for c in self.columns]
        whole = [shape, self.primary_key, asdict(self.partitioning) if self.partitioning else None]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]

    def widened(self, columns: Sequence[str]) -> Table:
        """A raw table with the columns that a file has, as text where they are not declared, before the bookkeeping."""
        own = {c.name: c for c in self.columns}
        found = [own.get(name, Column(name, "text", "As the source has it")) for name in columns]
        return replace(self, columns=(*found, *(c for c in self.columns if c.name.startswith("_"))))

    def stored_columns(self) -> tuple[Column, ...]:
        """The columns as stored: the declared ones, then the provenance."""
        own = {c.name for c in self.columns}
        return (*self.columns, *(c for c in PROVENANCE if c.name not in own))


@dataclass(frozen=True)
class Part:
    """One partition of a table, audited and ready to be published.

    `made_from` is the digest of the inputs it was made from: it says later whether it has to be made again.
    `digest` replaces the hash of the frame's content, where two frames may differ and yet hold the same.
    """

    key: str
    frame: pl.DataFrame = field(repr=False)
    made_from: str
    digest: str | None = None


@dataclass(frozen=True)
class Publication:
    """Partitions of a table that are published together.

    `whole` says what the table as a whole was made from, if one step makes all of its partitions.
    """

    table: Table
    parts: Sequence[Part]
    whole: str | None = None


@dataclass(frozen=True)
class Published:
    """The result of publishing a partition."""

    key: str
    rows: int
    content_hash: str
    changed: bool
    address: str
    size: int | None
    changes: Changes | None = None


@dataclass(frozen=True)
class Facts:
    """The bookkeeping of a published partition, or of a table as a whole."""

    partition: str
    rows: int
    content_hash: str
    made_from: str
    run_id: str
    loaded_at: str
