"""Hashes that are stored: of frames, rows, texts and lines. They say whether something is the same as before.

Here: what is the same on every machine and in every version, for ids and bookkeeping in the lake hang on it. Not here:
what a hash is taken of, and what follows from it; that is up to whoever asks for one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

#: Rows whose text is in memory at once, on each core.
_SLICE = 20_000


def content_hashes(frames: Sequence[pl.DataFrame]) -> list[str]:
    """SHA-256 of each frame's values and column names, without the provenance columns (`_…`).

    Equal frames have equal hashes, however they came about; the order of rows counts, so sort them first. All have the
    same columns: together, small ones take a fifth of the time.
    """
    digests = [hashlib.sha256() for _ in frames]
    cuts = np.cumsum([0, *(frame.height for frame in frames)])
    for name in sorted(c for c in frames[0].columns if not c.startswith("_")) if frames else ():
        whole = pl.concat([frame.get_column(name) for frame in frames], rechunk=True)
        # `oldest`: strings as one text with offsets; polars' own string views depend on how they came about.
        values = whole.to_arrow(compat_level=pl.CompatLevel.oldest())
        for digest, frame, pieces in zip(digests, frames, _values(values, cuts), strict=True):
            digest.update(f"{name} {values.type} {frame.height}".encode())
            for piece in pieces:
                digest.update(piece)
    return [digest.hexdigest() for digest in digests]


def _values(array: pa.Array, cuts: np.ndarray) -> list[list[memoryview]]:
    """An array's values as bytes, for each part of it from one of the `cuts` to the next.

    Arrow's own buffers hold more than the values: masks where nothing is null, and whatever lies beneath nulls.
    """
    found: list[list[memoryview]] = [[] for _ in cuts[1:]]
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        after_nulls = _running(valid)[cuts]
        for part, first, after, kept in zip(found, cuts, cuts[1:], np.diff(after_nulls), strict=False):
            if kept < after - first:
                # Their number too: a mask may look like values, and only nulls like only false.
                part.append(memoryview(f"{after - first - kept} null ".encode()))
                part.append(np.packbits(valid[first:after]).data)
        array, cuts = array.drop_null(), after_nulls
    if not len(array):
        return found
    kind, bounds = array.type, list(pairwise(cuts.tolist()))
    if pa.types.is_large_list(kind):
        lengths = np.ascontiguousarray(array.value_lengths().to_numpy(zero_copy_only=False))
        nested = _values(array.flatten(), _running(lengths)[cuts])
        pieces = ([lengths[a:b].data, *more] for (a, b), more in zip(bounds, nested, strict=True))
    elif pa.types.is_boolean(kind):
        bits = array.to_numpy(zero_copy_only=False)
        pieces = ([np.packbits(bits[a:b]).data] for a, b in bounds)
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        lengths, text = np.diff(ends), memoryview(data or b"")
        pieces = ([lengths[a:b].data, text[ends[a] : ends[b]]] for a, b in bounds)
    else:
        width = kind.bit_width // 8
        numbers = memoryview(array.buffers()[1])[array.offset * width :]
        pieces = ([numbers[a * width : b * width]] for a, b in bounds)
    for part, (first, after), piece in zip(found, bounds, pieces, strict=True):
        if after > first:
            part.extend(piece)
    return found


def _running(counts: np.ndarray) -> np.ndarray:
    """The sum of the counts before each position, and at the end the sum of all."""
    return np.concatenate([[0], np.cumsum(counts)])


def sha256_of_lines(lines: Iterable[str]) -> str:
    """SHA-256 of lines, in their order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def text_hash(texts: pl.Series) -> pl.Series:
    """A 64-bit XXH3 hash of every text (UInt64); null hashes as the empty text.

    Unlike polars' own hash it is the same in every version, so that it may be stored.
    """
    values = texts.fill_null("").cast(pl.Binary).to_list()
    return pl.Series(texts.name, np.fromiter(map(xxhash.xxh3_64_intdigest, values), np.uint64, len(values)))


def row_hash(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """A 64-bit XXH3 hash of some columns of every row (UInt64): equal for rows that are equal in them."""
    # In slices: the text of all rows at once can double the memory. In threads: polars builds text on one core.
    with ThreadPoolExecutor(pl.thread_pool_size(), thread_name_prefix="hash") as pool:
        hashes = pool.map(lambda part: text_hash(part.select(row_text(columns)).to_series()), frame.iter_slices(_SLICE))
        return pl.concat([pl.Series(dtype=pl.UInt64), *hashes])


def row_text(columns: Sequence[str]) -> pl.Expr:
    """The text of a row: its non-null columns, each with its name, so that a new, empty column changes nothing."""
    values = [pl.lit(f"{name}\x1f") + pl.col(name).cast(pl.String) for name in sorted(columns)]
    return pl.concat_str([*values, pl.lit("")], separator="\x1e", ignore_nulls=True)  # "" ends the last one
