"""What records are called and how their values become text, whatever they come in; and those of JSON documents.

Reading is passthrough: values stay as the source has them, and so do names, except where `column_name` mends them. Not
here: tables as text (delimited.py), and what was extracted page by page (extracts.py).
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic_core import from_json

from etl_assets.sources import SourceRefusedError

#: The column that holds a record which does not have the header's number of fields.
UNPARSED = "_unparsed"
#: PostgreSQL's text cannot hold NUL; it is read as the symbol for it, and the landed file keeps the byte.
NUL_SYMBOL = "\u2400"
#: How bytes that are not UTF-8 are decoded: as Latin-1, each by itself.
LATIN1 = "latin1"
#: Columns that PostgreSQL gives every table by itself.
_SYSTEM_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
#: Bytes of a name that PostgreSQL keeps; it cuts the rest off without a word.
_LONGEST_NAME = 63


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


def check_columns(file: str, found: Sequence[str], required: Sequence[str] = ()) -> None:
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


def value_text(value: object) -> str | None:
    """A JSON value as text: strings as they are, others as JSON writes them; None for null."""
    if value is None:
        return None
    return as_text(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))


def as_text(text: str) -> str:
    """A text from JSON in a form that PostgreSQL accepts: without NUL or half of a surrogate pair."""
    return text.encode(errors="replace").decode().replace("\0", NUL_SYMBOL)


def _latin1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(LATIN1, _latin1)


def parse_json(body: bytes) -> Any:
    """Parse a JSON answer; raises SourceRefusedError for anything else. Takes half as long as the json module."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body.strip():
        raise SourceRefusedError("the answer is empty. The last good extract stays.")
    try:
        return from_json(body)
    except ValueError as error:
        kind = "an HTML page" if body.lstrip()[:1] == b"<" else "not complete JSON"
        raise SourceRefusedError(f"the answer is {kind} ({error}). The last good extract stays.") from error


def read_geojson(path: Path) -> pl.DataFrame:
    """Every feature of a GeoJSON FeatureCollection as text: `id`, its properties, `geometry` (GeoJSON).

    If a property is called `id`, the feature's own id becomes `feature_id`. Names are mended by `column_name`. Adds
    `_source_row`. Raises SourceRefusedError for a file that is not a FeatureCollection.
    """
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig", errors=LATIN1))
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
    check_columns(path.name, [own_id, "geometry", *kept.values()])
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
