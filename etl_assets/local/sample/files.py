"""How rows become the bytes of a file: CSV, JSON and gzip, the same every time.

Here: forms that several sources have. Not here: a form that only one source has (its own module), and any row.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterable

#: A row of text, by column.
Row = dict[str, str]


def gzipped(content: bytes) -> bytes:
    """Compress without the time of compression, which would differ each time."""
    return gzip.compress(content, mtime=0)


def csv_bytes(columns: Collection[str], rows: Iterable[Row], line_end: str = "\n") -> bytes:
    """The rows' values in these columns as lines below a header; a missing value is empty."""
    # Not csv.writer: it puts quotes around a lone carriage return, and the publisher of events does not.
    lines = [",".join(columns), *(",".join(_field(row.get(name, "")) for name in columns) for row in rows)]
    return "".join(line + line_end for line in lines).encode("utf-8", "surrogateescape")


def json_bytes(content: object) -> bytes:
    """JSON without spaces, in UTF-8."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text
