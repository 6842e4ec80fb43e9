"""The Parquet lake: one object per partition, in a local folder or an S3 bucket, through one code path.

An object appears as a whole, so that a reader sees the old partition or the new one, never a half. Tables with
a geometry are GeoParquet. Every object carries its bookkeeping in its own metadata (`Facts`), so that the warehouse
can be rebuilt from the lake alone.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from threading import BoundedSemaphore
from typing import IO, TypeVar

import numpy as np
import obstore
import polars as pl
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from etl_assets.objects import local_folder, object_store, plain_message
from etl_assets.storage.frames import empty, to_geopandas
from etl_assets.storage.table import WHOLE, Facts, Table

#: Requests under way at once: an object store answers each in tens of milliseconds, however many there are.
CONCURRENCY = 16
#: Frames are encoded on all cores, but in no more threads than cores: more would only get in each other's way.
_ENCODING = BoundedSemaphore(os.cpu_count() or 1)
_FACTS = "etl_assets"
_ARROW_SCHEMA = "ARROW:schema"
#: What polars raises for a damaged object: one damaged footer in a thousand makes its decoder panic.
_DAMAGED = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
#: A point as WKB.
_POINT = np.dtype([("order", "u1"), ("type", "<u4"), ("x", "<f8"), ("y", "<f8")])
_GEOPARQUET = "1.1.0"
#: A Parquet file's footer is nearly always shorter than this.
_TAIL = 64 << 10
#: How many objects are read together, and held until their columns without a value have been dropped.
_SCANNED = 64


class LakeError(RuntimeError):
    """The lake could not be read or written; the message says what, where and what to do."""


@dataclass(frozen=True)
class Loaded:
    """A frame read from the lake, and the content hash of every partition it was read from."""

    frame: pl.DataFrame = field(repr=False)
    versions: dict[str, str]


Asked = TypeVar("Asked")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Lake:
    """A lake at `url`: `file:///folder`, a plain folder, or `s3://bucket/prefix`.

    Endpoint, region and credentials of S3 come from the environment, as AWS tools take them.
    """

    url: str

    @property
    def folder(self) -> Path | None:
        """The lake's folder, if it is a local one."""
        return local_folder(self.url)

    @cached_property
    def store(self) -> ObjectStore:
        """The object store at the lake's root."""
        return object_store(self.url)

    def address(self, path: str) -> str:
        """Where an object is, as a person would look for it."""
        return f"{self.url.rstrip('/')}/{path}"

    def path(self, table: Table, partition: str) -> str:
        """The object of a partition: `stage/table/2025-01-15.parquet`."""
        return f"{table.stage}/{table.name}/{'all' if partition == WHOLE else partition}.parquet"

    # --- objects

    def put(self, path: str, data: bytes | Path, *, create: bool = False) -> bool:
        """Write an object whole (with `create`, only if there is none yet); return whether it was written."""
        kept = "What was there before is still there; check that the lake has space and is writable, then run again."
        with self._explained("write", path, kept):
            try:
                obstore.put(self.store, path, data, mode="create" if create else "overwrite")
            except (FileExistsError, obstore.exceptions.AlreadyExistsError):
                return False
        return True

    def get(self, path: str) -> bytes | None:
        """An object's bytes, or None where there is no such object."""
        return self._if_there(path, lambda: obstore.get(self.store, path).bytes().to_bytes())

    def get_all(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """The bytes of objects, in the order of `paths`, many fetched at once; None for one that does not exist."""
        return _concurrently(self.get, paths)

    def delete(self, *paths: str) -> None:
        """Delete objects; missing ones are no error."""
        with self._explained("delete", ", ".join(paths[:3])):
            if self.folder is None and paths:
                obstore.delete(self.store, list(paths))
                return
            for path in paths:
                with suppress(FileNotFoundError):  # which S3 does not raise
                    obstore.delete(self.store, path)

    def download(self, path: str, to: Path) -> None:
        """Stream an object into a file."""
        with to.open("wb") as sink:  # a full disk is not an error of the lake
            for chunk in self._chunks(path):
                sink.write(chunk)

    def _chunks(self, path: str) -> Iterator[bytes]:
        with self._explained("read", path, "It was landed before: restore it."):
            yield from obstore.get(self.store, path).stream(min_chunk_size=8 << 20)

    def size(self, path: str) -> int | None:
        """An object's size in bytes, or None where there is none."""
        return self._if_there(path, lambda: obstore.head(self.store, path)["size"])

    def list(self, prefix: str) -> dict[str, int]:
        """Path and size of every object below a prefix."""
        found: dict[str, int] = {}
        with self._explained("list", prefix):
            for page in obstore.list(self.store, prefix=prefix.rstrip("/") + "/", chunk_size=1000):
                found.update((meta["path"], meta["size"]) for meta in page)
        return found

    def _if_there(self, path: str, ask: Callable[[], Found]) -> Found | None:
        """The answer of `ask` about an object; None if there is no such object."""
        with self._explained("read", path):
            try:
                return ask()
            except (OSError, obstore.exceptions.BaseError) as error:
                if _is_absent(error):
                    return None
                raise

    @contextmanager
    def _explained(self, what: str, path: str, advice: str = "") -> Generator[None]:
        """Turn the store's errors into a LakeError for the person who reads it."""
        try:
            yield
        except (OSError, obstore.exceptions.BaseError) as error:
            raise LakeError(f"Cannot {what} {self.address(path)}: {plain_message(error)} {advice}".rstrip()) from error

    def partitions(self, table: Table) -> dict[str, int]:
        """The partitions that a table has in the lake, as it is cut now, with their sizes in bytes."""
        prefix, found = f"{table.stage}/{table.name}/", dict[str, int]()
        for path, size in self.list(prefix).items():
            name = path.removeprefix(prefix).removesuffix(".parquet")
            key = WHOLE if name == "all" else name
            if path.endswith(".parquet") and table.may_have(key):
                found[key] = size
        return found

    # --- tables

    def facts(self, table: Table, partitions: Iterable[str]) -> dict[str, Facts]:
        """The bookkeeping of partitions, read from the objects' footers; absent ones are left out."""
        keys = list(partitions)
        tails = _concurrently(self._tail, [self.path(table, key) for key in keys])
        found = (_facts(_metadata(tail)) for tail in tails if tail is not None)
        return {facts.partition: facts for facts in found if facts}

    def _tail(self, path: str) -> bytes | None:
        """The end of a Parquet object, with its whole footer; None where there is no such object."""

        def end() -> bytes:
            return obstore.get(self.store, path, options={"range": {"suffix": _TAIL}}).bytes().to_bytes()

        if (tail := self._if_there(path, end)) is None:
            return None
        footer = int.from_bytes(tail[-8:-4], "little")
        return tail if footer + 8 <= len(tail) else self.get(path)

    def read(
        self, table: Table, partitions: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> Loaded:
        """Read partitions (default: all there are) as one frame, only the columns asked for.

        Missing partitions are left out: `versions` says which were read. Columns that an older partition lacks are
        null there.
        """
        keys = sorted(self.partitions(table)) if partitions is None else list(partitions)
        frames, versions, schema = list[pl.DataFrame](), dict[str, str](), dict[str, pl.DataType]()
        chunks = [keys[start : start + _SCANNED] for start in range(0, len(keys), _SCANNED)]
        for found in _one_ahead(lambda chunk: self._objects(table, chunk), chunks):
            versions |= {key: item.facts.content_hash for key, item in found.items()}
            for _, alike in groupby(found.values(), key=lambda item: item.arrow_schema or item.schema):
                frame = self._scan(table, list(alike), columns)
                schema |= frame.schema
                frames.append(frame.select([c.name for c in frame if c.null_count() < frame.height] or frame.columns))
        return Loaded(_stacked(frames, schema) if frames else empty(table, columns), versions)

    def partition_frames(self, table: Table, partitions: Sequence[str]) -> dict[str, pl.DataFrame]:
        """Each of the partitions as a frame of its own; absent ones are left out."""
        found = self._objects(table, partitions)
        frames = _concurrently(lambda item: self._scan(table, [item], None), found.values())
        return dict(zip(found, frames, strict=True))

    def _objects(self, table: Table, partitions: Iterable[str]) -> dict[str, _Object]:
        """The objects of partitions, in their order; absent ones are left out."""
        keys = list(partitions)
        paths = [self.path(table, key) for key in keys]
        found = dict[str, _Object]()
        # Only the waiting is done in threads: reading footers there as well took twice the time (measured).
        for key, path, data in zip(keys, paths, self.get_all(paths), strict=True):
            if data is None:
                continue
            try:
                metadata = pl.read_parquet_metadata(io.BytesIO(data))
            except _DAMAGED as error:
                raise self.damaged(path, error) from error
            facts = _facts(metadata)
            if facts is None:
                raise LakeError(
                    f"{self.address(path)} was not written by this project, or is damaged: it has no bookkeeping. If "
                    "nobody else needs it, delete it: the next run makes it anew."
                )
            found[key] = _Object(path, data, facts, metadata.get(_ARROW_SCHEMA))
        return found

    def _scan(self, table: Table, objects: Sequence[_Object], columns: Sequence[str] | None) -> pl.DataFrame:
        """Objects of one schema as a frame."""
        there = list(objects[0].schema)
        if table.geometry is not None:  # GeoParquet's covering column serves other readers, not us
            there = [c for c in there if c != "bbox"]
        wanted = there if columns is None else [c for c in columns if c in there]
        sources: list[IO[bytes]] = [io.BytesIO(item.data) for item in objects]
        try:  # one scan of many objects takes a fifth of the time of one scan each (measured)
            frame = pl.read_parquet(sources, columns=wanted or there[:1])
        except _DAMAGED as error:
            if len(objects) == 1:
                raise self.damaged(objects[0].path, error) from error
            return pl.concat([self._scan(table, [item], columns) for item in objects])  # finds the damaged one
        if columns is None:
            return frame
        types = empty(table, columns).schema
        lacking = [pl.lit(None, types[c]).alias(c) for c in columns if c not in there and c in types]
        return frame.with_columns(lacking).select([c for c in columns if c in wanted or c in types])

    def damaged(self, path: str, error: object = "it has no bookkeeping that can be read") -> LakeError:
        """The error that says that an object is damaged."""
        return LakeError(f"{self.address(path)} is damaged ({error}). Delete it: the next run makes it anew.")


@dataclass(frozen=True)
class _Object:
    """A partition's object as it was read."""

    path: str
    data: bytes = field(repr=False)
    facts: Facts
    #: The schema as text, as it is in the object; comparing the texts takes a fifth of the time (measured).
    arrow_schema: str | None

    @cached_property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Columns and their types."""
        return pl.read_parquet_schema(io.BytesIO(self.data))


def _is_absent(error: Exception) -> bool:
    """Whether an error says that there is no such object; a missing bucket is another matter."""
    return isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error)


def _stacked(frames: Sequence[pl.DataFrame], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Frames below each other, with the columns of `schema`.

    A column without a value in any of them becomes a constant: otherwise it would take 16 bytes a row, and raw
    tables have dozens.
    """
    whole = pl.concat([frame for frame in frames if frame.height] or frames, how="diagonal_relaxed", rechunk=True)
    return whole.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in whole.columns
    ).select(list(schema))


def _one_ahead(function: Callable[[Asked], Found], items: Sequence[Asked]) -> Generator[Found]:
    """The function's result for each item; the next one is computed while the caller works on the current one."""
    if len(items) <= 1:  # as in most reads, which are over before a thread would have started
        yield from map(function, items)
        return
    following: Future[Found] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        for item in items:
            current, following = following, thread.submit(function, item)
            if current is not None:
                yield current.result()
        if following is not None:
            yield following.result()


def _concurrently(function: Callable[[Asked], Found], items: Collection[Asked]) -> list[Found]:
    """The function's result for each item, in their order."""
    return list(map(function, items) if len(items) <= 1 else _threads().map(function, items))


@cache
def _threads() -> ThreadPoolExecutor:
    """The threads in which objects are read; starting them anew for each table took longer than reading it."""
    return ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="lake")


os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked child has its parent's memory, and no threads


def _metadata(data: bytes) -> Mapping[str, str]:
    """The metadata of a Parquet object, of which at least the footer is given; empty if it is damaged."""
    try:
        return pl.read_parquet_metadata(io.BytesIO(data))
    except _DAMAGED:
        return {}


def _facts(metadata: Mapping[str, str]) -> Facts | None:
    """Bookkeeping from Parquet metadata; None if it is missing or cannot be read."""
    try:
        return Facts(**json.loads(metadata[_FACTS]))
    except (KeyError, ValueError, TypeError):
        return None


def encode(table: Table, frame: pl.DataFrame, facts: Facts) -> bytes:
    """A partition as Parquet (zstd) with its bookkeeping; GeoParquet where the table has a geometry."""
    with _ENCODING:
        return _encoded(table, frame, facts)


def _encoded(table: Table, frame: pl.DataFrame, facts: Facts) -> bytes:
    metadata = {_FACTS: json.dumps(asdict(facts))}
    column = table.geometry
    if column is not None and column.geometry is not None and column.geometry.type == "Point":
        # Points carry no bbox column: it would add 40 % and help no query that sorting does not (measured).
        metadata["geo"] = _geo_of_points(frame[column.name], column.geometry.srid)
    elif column is not None:
        # geopandas writes what makes the file GeoParquet, from the geometry alone. On their way through it, the other
        # columns would get pandas types, and geopandas itself cannot read lists and decimals of those.
        header = io.BytesIO()
        shapes = to_geopandas(table, frame.select(column.name))
        shapes.to_parquet(header, compression=None, index=False, write_covering_bbox=True, schema_version=_GEOPARQUET)
        metadata["geo"] = pq.read_metadata(header).metadata[b"geo"].decode()
        header.seek(0)
        frame = frame.with_columns(pl.read_parquet(header, columns=["bbox"]).to_series())
    sink = io.BytesIO()
    # Minimum and maximum values let readers skip objects; for a raw table's dozens of text columns they help nobody.
    frame.write_parquet(sink, compression="zstd", metadata=metadata, statistics=table.stage != "raw")
    return sink.getvalue()


def _geo_of_points(points: pl.Series, srid: int) -> str:
    """GeoParquet's metadata for a column of points: what geopandas writes for an empty one, plus their bounds.

    A table of points has thousands of small partitions, and geopandas takes four times as long for each (measured).
    """
    geo = json.loads(_geo_of_nothing(srid))
    described = geo["columns"]["geometry"] | {"geometry_types": ["Point"]}
    values = points.drop_nulls().to_list()
    if any(len(value) != _POINT.itemsize or value[0] != 1 for value in values):
        raise ValueError(f"{points.name}: points have to be two-dimensional, little-endian WKB; `frames.wkb` makes it")
    shapes = np.frombuffer(b"".join(values), _POINT)  # polars would take half a millisecond for each of these steps
    if len(there := shapes[np.isfinite(shapes["x"])]):
        described["bbox"] = [float(f(there[axis])) for f in (np.min, np.max) for axis in ("x", "y")]
    return json.dumps(geo | {"primary_column": points.name, "columns": {points.name: described}})


@cache
def _geo_of_nothing(srid: int) -> str:
    """GeoParquet's metadata for a geometry column without rows: mainly the CRS."""
    import geopandas as gpd

    sink = io.BytesIO()
    gpd.GeoDataFrame(geometry=gpd.GeoSeries([], crs=srid)).to_parquet(sink, schema_version=_GEOPARQUET)
    return pq.read_metadata(sink).metadata[b"geo"].decode()
