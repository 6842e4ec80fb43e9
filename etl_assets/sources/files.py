"""Files: where whole-file sources come from, and how every one of their records is read as text.

Reading is passthrough: values stay as the source has them, and so do names, except where `column_name` mends them. What
keeps a file from being read (its encoding, its line ends) is dealt with here, and a record unlike the others is kept,
not dropped.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv

from etl_assets.settings import Settings, settings
from etl_assets.sources import Fetched, SourceRefusedError, Validators, Workspace, http

#: The column that holds a record which does not have the header's number of fields.
UNPARSED = "_unparsed"
#: PostgreSQL's text cannot hold NUL; it is read as the symbol for it, and the landed file keeps the byte.
NUL_SYMBOL = "\u2400"
#: Placeholders while a file is parsed: for a carriage return within a field (to a CSV parser it would end the record),
#: and for the character that both begin with, which a field may hold, too.
_LONE_CR, _MARK = "\ue00d1", "\ue00d0"
_LARGEST_RECORD = 32 << 20
#: Bytes that are parsed at once, unless a record is longer: in pieces of 32 MB it takes a third longer, of 4 MB a
#: fifteenth (measured).
_BLOCK = 2 << 20
#: Columns that PostgreSQL gives every table by itself.
_SYSTEM_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
#: Bytes of a name that PostgreSQL keeps; it cuts the rest off without a word.
_LONGEST_NAME = 63
#: The first bytes of files that get dropped instead of text, and what such files are.
_OTHER_FORMS = {
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"\x1f\x8b": "packed (gzip)",
    b"PK\x03\x04": "a spreadsheet, or packed (zip)",
    b"PAR1\x15": "a Parquet file",  # with the byte that follows: a column may be called PAR1
    b"%PDF": "a PDF",
}


@dataclass(frozen=True)
class WebFile:
    """A file that its publisher replaces as a whole.

    `source` names it in the settings (ETL_<SOURCE>_URL) and at the local source server, which has it as `file`;
    `live` is the publisher's address.
    """

    source: str
    file: str
    live: str

    @property
    def suffix(self) -> str:
        """See `Source.suffix`."""
        return Path(self.file).suffix

    def url(self) -> str:
        """The address as it is configured now."""
        return settings().source_url(self.source, local=f"{self.source}/{self.file}", live=self.live)

    def probe(self, known: Validators | None) -> str | None:
        """See `Source.probe`."""
        return http.probe(self.url(), known)

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """See `Source.fetch`."""
        return http.download(self.url(), work.folder / f"fetched{self.suffix}", known)


@dataclass(frozen=True)
class OptionalFile:
    """A file that the user may name by a setting, as a path or a URL; the name `none` stands for one without records.

    So does a setting that was never set. If it once was, what was landed stays: the variable may be missing in the next
    terminal, and that must not take anything away.
    """

    location: Callable[[Settings], str | None]
    without: bytes
    suffix: str

    def probe(self, known: Validators | None) -> str | None:
        """See `Source.probe`."""
        location = self.location(settings())
        if known and not location:
            return None
        if location and "://" in location:
            return http.probe(location, known)
        version = hashlib.sha256(self._read(location)).hexdigest()
        return None if known and known.etag == version else version

    def fetch(self, work: Workspace, known: Validators | None) -> Fetched | None:
        """See `Source.fetch`."""
        location, to = self.location(settings()), work.folder / f"fetched{self.suffix}"
        if known and not location:
            return None
        if location and "://" in location:
            return http.download(location, to, known)
        data = self._read(location)
        if not location:
            with work.previous() as last:
                data = last.read_bytes() if last else data
        version = hashlib.sha256(data).hexdigest()
        if known and known.etag == version:
            return None
        to.write_bytes(data)
        return Fetched(to, Path(location).name if location else "none configured", Validators(etag=version))

    def _read(self, location: str | None) -> bytes:
        if location is None or location == "none":
            return self.without
        try:
            return Path(location).expanduser().read_bytes()
        except OSError as error:
            raise SourceRefusedError(
                f"The file {location} cannot be read: {error.strerror}. The last good file stays."
            ) from error


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


def check_columns(file: str, found: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a file that lacks a required column or has one twice; the message has both lists."""
    twice = sorted(name for name, count in Counter(found).items() if count > 1)
    if twice:
        raise SourceRefusedError(
            f"{file}: the columns {_listed(twice)} occur more than once. The last good file stays."
        )
    missing = [name for name in required if name not in found]
    if missing:
        raise SourceRefusedError(
            f"{file}: required columns are missing: {_listed(missing)}. It has: {_listed(found)}. If the source has "
            "renamed them, teach the dataset the new names; the last good file stays."
        )


def _listed(names: Sequence[str]) -> str:
    """Names for a message, cut short: a file that is not a table may have a "name" of megabytes."""
    return str([name[:60] for name in names[:200]])


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


def column_name(name: str, position: int) -> str:
    """The house's name for a source's column; `position` is that of the column, from 1.

    A column without a name is called by its position. Names that are taken get `source` before them: those that begin
    with `_` are the house's own, and some are PostgreSQL's. A name that is longer than PostgreSQL keeps is cut and
    followed by a digest of the whole: two that begin alike stay distinct.
    """
    name = as_text(name)
    if not name:
        return f"column_{position}"
    if name.startswith("_"):
        name = f"source{name}"
    elif name in _SYSTEM_COLUMNS:
        name = f"source_{name}"
    if len(name.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: _LONGEST_NAME - 9].decode(errors='ignore')}_{digest}"
    return name


def _latin1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("latin1", _latin1)


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
            text = text if _is_utf8(text) else text.decode("utf-8", errors="latin1").encode()
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


def read_geojson(path: Path, required: Sequence[str] = ()) -> pl.DataFrame:
    """Every feature of a GeoJSON FeatureCollection as text: `id`, its properties, `geometry` (GeoJSON).

    If a property is called `id`, the feature's own id becomes `feature_id`. Names are mended as by `read_csv`. Adds
    `_source_row`. Raises SourceRefusedError for a file that is not a FeatureCollection, or none of whose features has a
    required property.
    """
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig", errors="latin1"))
    except json.JSONDecodeError as error:
        raise SourceRefusedError(
            f"{path.name} is not complete JSON (line {error.lineno}, column {error.colno}: {error.msg}). "
            "The last good file stays."
        ) from error
    except ValueError as error:
        raise SourceRefusedError(
            f"{path.name} holds a number with too many digits ({error}). The last good file stays."
        ) from error
    except RecursionError as error:
        raise SourceRefusedError(f"{path.name} is nested too deeply. The last good file stays.") from error
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, list) or not all(map(_is_feature, features)):
        raise SourceRefusedError(f"{path.name} is JSON, but not a GeoJSON FeatureCollection. The last good file stays.")
    names = list(dict.fromkeys(name for feature in features for name in feature.get("properties") or {}))
    own_id = "feature_id" if "id" in names else "id"
    kept = {name: column_name(name, position) for position, name in enumerate(names, 1)}
    check_columns(path.name, [own_id, "geometry", *kept.values()], required)
    columns: dict[str, list[str | None]] = {own_id: [value_text(feature.get("id")) for feature in features]}
    for name, column in kept.items():
        columns[column] = [value_text((feature.get("properties") or {}).get(name)) for feature in features]
    columns["geometry"] = [value_text(feature.get("geometry")) for feature in features]
    return (
        pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
        .with_row_index("_source_row", offset=1)
        .cast({"_source_row": pl.Int64})
    )


def _is_feature(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("properties"), dict | None)


def value_text(value: object) -> str | None:
    """A JSON value as text: strings as they are, others as JSON writes them; None for null."""
    if value is None:
        return None
    return as_text(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))


def as_text(text: str) -> str:
    """A text from JSON in a form that PostgreSQL accepts: without NUL or half of a surrogate pair."""
    return text.encode(errors="replace").decode().replace("\0", NUL_SYMBOL)
