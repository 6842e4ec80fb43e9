"""Delimited text: how every record of a file is read as text.

What keeps a file from being read (its encoding, its line ends) is dealt with here, and a record unlike the others is
kept, not dropped.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv

from etl_assets.sources import SourceRefusedError
from etl_assets.sources.records import LATIN1, NUL_SYMBOL, UNPARSED, check_columns, column_name

#: Placeholders while a file is parsed: for a carriage return within a field (to a CSV parser it would end the record),
#: and for the character that both begin with, which a field may hold, too.
_LONE_CR, _MARK = "\ue00d1", "\ue00d0"
_LARGEST_RECORD = 32 << 20
#: Bytes that are parsed at once, unless a record is longer: in pieces of 32 MB it takes a third longer, of 4 MB a
#: fifteenth (measured).
_BLOCK = 2 << 20
#: The first bytes of files that get dropped instead of text, and what such files are.
_OTHER_FORMS = {
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"\x1f\x8b": "packed (gzip)",
    b"PK\x03\x04": "a spreadsheet, or packed (zip)",
    b"PAR1\x15": "a Parquet file",  # with the byte that follows: a column may be called PAR1
    b"%PDF": "a PDF",
}


def read_csv(path: Path, required: Sequence[str] = (), delimiter: str | None = None) -> pl.DataFrame:
    """Every record of a delimited text file (commas, tabs or semicolons) as text, under the file's own column names.

    With `delimiter`, a file that has another is refused: where semicolons are used, numbers are often written
    differently, too.

    Adds `_source_row` (1 is the first record) and `_unparsed`, which holds a record that does not have the header's
    number of fields as a whole; its columns are null. Empty fields are null. Text is UTF-8; single bytes that are not
    are taken as Latin-1. A column without a name is called by its position (`column_1`), and a name that begins with
    `_`, as those of the added columns do, gets `source` before it.

    Raises SourceRefusedError for what is wrong with the file as a whole: no text at all, no header, a required column
    missing, a column twice, a quote that is never closed.
    """
    _refuse_other_forms(path)
    text = _readable(path)
    header, found = _header(text, path.name)
    if delimiter not in (None, found):
        raise SourceRefusedError(
            f"{path.name}: its fields are separated by {found!r}, but the dataset expects {delimiter!r}. Export it "
            "with that, or teach the dataset the other form; the last good file stays."
        )
    delimiter = found
    columns = [column_name(name, position) for position, name in enumerate(header, 1)]
    check_columns(path.name, columns, required)
    rows, malformed = _parse(text.path, header, delimiter, path.name)
    rows = rows.rename_columns(columns)
    # A column without a value costs 16 bytes a row, but nothing as a constant; wide files have many.
    filled = [name for name in columns if rows[name].null_count < len(rows)] or columns
    frame = pl.from_arrow(rows.select(filled), rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    nothing = pl.lit(None, pl.String)
    frame = frame.with_columns(nothing.alias(name) for name in columns if name not in filled).select(columns)
    bad = pl.Series([number for number, _ in malformed], dtype=pl.Int64)
    numbers = pl.int_range(1, frame.height + len(malformed) + 1, dtype=pl.Int64, eager=True)
    frame = frame.with_columns(
        numbers.filter(~numbers.is_in(bad.implode())).alias("_source_row"),
        pl.lit(None, pl.String).alias(UNPARSED),
    )
    if malformed:
        kept = pl.DataFrame({"_source_row": bad, UNPARSED: [text for _, text in malformed]})
        frame = pl.concat([frame, kept], how="diagonal").sort("_source_row")
    _refuse_open_quotes(path.name, frame, malformed, columns if text.odd_quotes else [], delimiter)
    if text.has_lone_cr:
        text_of = pl.col(pl.String).str.replace_all(_LONE_CR, "\r", literal=True)
        frame = frame.with_columns(text_of.str.replace_all(_MARK, _MARK[0], literal=True))
    return frame


def _refuse_other_forms(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(max(map(len, _OTHER_FORMS)))
    for begins, form in _OTHER_FORMS.items():
        if start.startswith(begins):
            raise SourceRefusedError(
                f"{path.name} is {form}, but must be delimited text in UTF-8. Save it in that form; the last good file "
                "stays."
            )


def _refuse_open_quotes(
    file: str,
    frame: pl.DataFrame,
    malformed: Sequence[tuple[int, str]],
    suspects: Sequence[str],
    delimiter: str,
) -> None:
    """Refuse a file in which a quote is never closed: it would turn many records into one.

    Such a record mostly has too many or too few fields. If it has the right number by chance, one of its fields, in
    the columns `suspects`, holds line ends and as many delimiters as a whole record.
    """
    found = [(number, text) for number, text in malformed if "\n" in text and text.count('"') % 2]
    for name in suspects:
        field, delimiters = pl.col(name), pl.col(name).str.count_matches(delimiter, literal=True)
        swallowing = frame.filter(field.str.contains("\n", literal=True) & (delimiters >= len(suspects) - 1))
        found.extend(swallowing.select("_source_row", name).iter_rows())
    if found:
        number, text = min(found)
        raise SourceRefusedError(
            f"{file}: record {number} opens a quote that is never closed: {text[:120]!r}… It swallows "
            f"{text.count(chr(10))} lines. The file is refused; the last good one stays."
        )


def _parse(path: Path, header: Sequence[str], delimiter: str, file: str) -> tuple[pa.Table, list[tuple[int, str]]]:
    """The well-formed records, and number and text of the others."""
    malformed: list[tuple[int | None, str]] = []

    def keep(row: pyarrow.csv.InvalidRow) -> str:
        malformed.append((row.number, row.text))
        return "skip"

    def read(threads: bool, block: int = _BLOCK) -> pa.Table:
        malformed.clear()
        try:
            return pyarrow.csv.read_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(use_threads=threads, block_size=block),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    check_utf8=False,
                ),
            )
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):  # a header without even a line end
                return pa.table([pa.array([], pa.string())] * len(header), names=list(header))
            if block < _LARGEST_RECORD:  # a record may be longer than a block
                return read(threads, _LARGEST_RECORD)
            raise SourceRefusedError(
                f"{file} is not readable as delimited text: {error}. The last good file stays."
            ) from error

    table = read(threads=True)
    if malformed:
        table = read(threads=False)  # without threads, the parser counts records; the header is number 1
    return table, [((number or 0) - 1, text) for number, text in malformed]


def _header(text: _Text, file: str) -> tuple[list[str], str]:
    """The columns' names, and the delimiter: whichever of comma, tab and semicolon is most frequent in the header."""
    with text.path.open(encoding="utf-8", newline="\n") as lines:
        line = lines.readline()
        if not line.strip():
            raise SourceRefusedError(f"{file} has no header. The last good file stays.")
        if text.has_lone_cr and _LONE_CR in line:
            raise SourceRefusedError(
                f"{file}: the header holds a carriage return: lines that end in a bare carriage return cannot be "
                "distinguished from fields that hold one. The last good file stays."
            )
        delimiter = max(",\t;", key=line.count)
        try:
            names = next(csv.reader(chain([line], lines), delimiter=delimiter))
        except csv.Error as error:
            raise SourceRefusedError(
                f"{file}: the header cannot be read: {error}. The last good file stays."
            ) from error
    return names, delimiter


@dataclass(frozen=True)
class _Text:
    """A file that a parser can read, and what was noticed in it."""

    path: Path
    has_lone_cr: bool
    odd_quotes: bool


def _readable(path: Path) -> _Text:
    """The file itself if a parser can read it as it is, else a mended copy beside it."""
    lone = re.compile(rb"\r(?!\n)")
    needed = has_lone_cr = False
    quotes = 0
    with path.open("rb") as file:
        for number, chunk in enumerate(_chunks(file)):
            # numpy: bytes.count takes six times as long
            quotes += int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == ord('"')))
            has_lone_cr = has_lone_cr or (b"\r" in chunk and lone.search(chunk) is not None)
            needed = needed or has_lone_cr or b"\0" in chunk or not _is_utf8(chunk)
            needed = needed or (number == 0 and chunk.startswith(codecs.BOM_UTF8))
    if not needed:
        return _Text(path, has_lone_cr, quotes % 2 == 1)
    mended = path.with_name(f"mended-{path.name}")
    with path.open("rb") as file, mended.open("wb") as sink:
        for number, chunk in enumerate(_chunks(file)):
            text = chunk.removeprefix(codecs.BOM_UTF8) if number == 0 else chunk
            text = text if _is_utf8(text) else text.decode("utf-8", errors=LATIN1).encode()
            if has_lone_cr:
                text = lone.sub(_LONE_CR.encode(), text.replace(_MARK[0].encode(), _MARK.encode()))
            sink.write(text.replace(b"\0", NUL_SYMBOL.encode()))
    return _Text(mended, has_lone_cr, quotes % 2 == 1)


def _chunks(file: IO[bytes], size: int = 1 << 20) -> Iterator[bytes]:
    """Blocks of a file that end at the end of a line."""
    rest: list[bytes] = []
    while block := file.read(size):
        cut = block.rfind(b"\n") + 1
        if cut:
            yield b"".join([*rest, block[:cut]])
            rest = []
        rest.append(block[cut:])
    if any(rest):
        yield b"".join(rest)


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
