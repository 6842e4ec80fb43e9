"""What was extracted from a paged API, as it was landed: its pages, and their records as text.

Not here: how an extract is made (paging.py).
"""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from etl_assets.sources import SourceRefusedError
from etl_assets.sources.records import check_columns, column_name, value_text

#: The suffix of a page in the zip of an extract.
PACKED = ".gz"


def by_slice(archive: Path | None) -> dict[str, list[bytes]]:
    """The packed pages of a landed extract, by slice."""
    found: dict[str, list[bytes]] = {}
    for name, packed in _entries(archive) if archive else ():
        found.setdefault(name.rpartition("/")[0], []).append(packed)
    return found


def pages(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every page of a landed extract, in order."""
    try:
        for name, packed in _entries(archive):
            yield name.removesuffix(PACKED), gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceRefusedError(f"{archive.name} is not an extract: {error}.") from error


def _entries(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                yield name, opened.read(name)
    except zipfile.BadZipFile as error:
        raise SourceRefusedError(f"{archive.name} is not an extract: {error}.") from error


def read_pages(archive: Path, records: Callable[[Any], Sequence[Mapping[str, Any]]]) -> pl.DataFrame:
    """Every record of a landed extract as text, numbers as the source wrote them, with `_source_row` and `_page`.

    `records` returns the records of a page's JSON. Columns are named by `records.column_name`.
    """
    rows: list[Mapping[str, Any]] = []
    of: list[str] = []
    for page, body in pages(archive):
        try:
            document = json.loads(body, parse_float=str, parse_int=str)
            found = [dict(record.items()) for record in records(document)]
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            why = f"{archive.name}, page {page}: not the expected JSON ({error})"
            raise SourceRefusedError(f"{why}. The last good state stays.") from error
        rows += found
        of += [page] * len(found)
    names = dict.fromkeys(name for row in rows for name in row)
    kept = {name: column_name(name, position) for position, name in enumerate(names, 1)}
    check_columns(archive.name, list(kept.values()))
    values = {column: [value_text(row.get(name)) for row in rows] for name, column in kept.items()}
    frame = pl.DataFrame(values | {"_page": of}, schema=dict.fromkeys([*values, "_page"], pl.String))
    return frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("_source_row"))
