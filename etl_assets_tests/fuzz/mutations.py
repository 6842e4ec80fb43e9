"""How an answer of a source is spoilt: its bytes, its structure or its values, the same for the same chance.

Here: changes of a body. Not here: which answer is changed (subjects.py), and what may come of it (campaign.py).
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Change = Callable[[bytes, random.Random], bytes]

#: Each of them means something to somebody: SQL, a browser, a spreadsheet, a shell, a terminal, a format string.
ACTIVE = (
    "'; DROP TABLE fuzz_canary; --", "\"; DROP TABLE fuzz_canary; --", "$$; DROP TABLE fuzz_canary; $$", "%s %(x)s {0}",
    "<script>alert(1)</script>", "<!DOCTYPE html><html>", "=HYPERLINK(\"http://example.org\")", "@SUM(1+1)*cmd|'/C'!A0",
    "../../../../fuzz_escaped", "/etc/passwd", "file:///etc/passwd", "\x1b[31m\x1b]0;owned\x07", "[red]x[/red][/]",
    "${HOME} $(id) `id`", "C:\\CON", "\\.", "\\N", "\\x41", "{\"a\": 1}", "a\tb\nc", "a,b;c|d",
)  # fmt: skip
NUMBERS = (
    "NaN", "nan", "inf", "-Infinity", "1e999", "-1e308", "1e308", "1e-999", "-1", "-0", "-0.0", "0", "1,234,567",
    "1.234,5", "12.0", "0x10", "1_000", "\u0661\u0662", "9223372036854775807", "9223372036854775808", "2147483648",
    "-2147483649", "99999999999999999999999999999999999999999", "0.1234567890123456789", "+5", " 7 ", "1e3", "5%", "$5",
)  # fmt: skip
DATES = (
    "0001-01-01", "9999-12-31", "0000-00-00", "10000-01-01", "-0001-01-01", "2025-02-30", "2025-02-29", "2024-02-29",
    "2025-2-1", "20250201", "01/02/2025", "2025-02-10T00:00:00Z", "2025-02-10 24:00", "infinity", "now", "epoch",
    "1677-09-21", "2262-04-12", "2025-02-10 ", "2025-02-1\u0660", "1900-01-01", "2100-12-31",
)  # fmt: skip
TEXTS = (
    "", " ", "NA", "null", "None", "N/A", "true", "\u2603", "\U0001f469\u200d\U0001f680", "\u202egnp.exe", "\u200b",
    "e\u0301", "\ufeff", "\u0000", "\ud7ff", "\ue00d", "\u2400", "\u2028", "\x1f\x1e", "\x85", "\"", "'", "\"\"\"",
    "\r",
    "\r\n", "_source_row", "id", "A" * 70, "A" * 3000, "\u00e9" * 100_000, "x" * 1_500_000,
)  # fmt: skip
NAMES = (
    "", " ", "_row_hash", "_source_row", "_partition", "_unparsed", "source_row_hash", "column_1", "id", "DATE",
    "select",
    'a"b', "a.b", "%s", "\u540d", "n" * 70, "n" * 64 + "1", "n" * 64 + "2", "; DROP TABLE fuzz_canary; --",
    "\x1b[31m", "ctid",
    "xmin", "../x", "geometry", "a\nb", "tableoid", "check", "_loaded_at", "_run_id", "_published_at", "_page",
    "feature_id",
)  # fmt: skip

#: What stands in for text that `json.dumps` does not write.
_LITERALS = {
    "@@1e999@@": "1e999", "@@long@@": "9" * 400, "@@longer@@": "1" * 5000, "@@deep@@": "[" * 5000 + "]" * 5000,
    "@@half@@": '"\\ud800"',
    "@@nul@@": '"a\\u0000b"', "@@bare@@": "undefined", "@@quote@@": "'x'", "@@hex@@": "0x1F", "@@dot@@": "1.",
    "@@tiny@@": "1e-400", "@@float@@": "3.0", "@@minus@@": "-0", "@@nan@@": "NaN", "@@inf@@": "-Infinity",
}  # fmt: skip


def text(chance: random.Random) -> str:
    """Some value."""
    return chance.choice(chance.choice((ACTIVE, NUMBERS, NUMBERS, DATES, DATES, TEXTS)))


# Bytes ---------------------------------------------------------------------------------------------------


def _flip(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 3, 30))):
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def _span(data: bytes, chance: random.Random) -> slice:
    start = chance.randrange(len(data))
    return slice(start, start + chance.choice((1, 1, 2, 10, 100, 1000)))


def _cut_out(data: bytes, chance: random.Random) -> bytes:
    at = _span(data, chance)
    return data[: at.start] + data[at.stop :]


def _double(data: bytes, chance: random.Random) -> bytes:
    at = _span(data, chance)
    return data[: at.stop] + data[at.start :]


def _move(data: bytes, chance: random.Random) -> bytes:
    at, rest = data[_span(data, chance)], _cut_out(data, chance)
    to = chance.randrange(len(rest) + 1)
    return rest[:to] + at + rest[to:]


def _insert(data: bytes, chance: random.Random) -> bytes:
    signs = (b"\0", b"\xef\xbb\xbf", b'"', b'""', b"'", b"\r", b"\n", b"\r\n", b"\xff\xfe", b"\xf1", b"\xc3",
             b"\xed\xa0\x80",
             b"\xf4\x90\x80\x80", b",", b";", b"\t", b"\\", b"{", b"]", b"\x1a", b"\x1b[2J",
             b"\xee\x80\x8d")  # fmt: skip
    what = chance.choice(signs) * chance.choice((1, 1, 1, 2, 50))
    for _ in range(chance.choice((1, 1, 5))):
        at = chance.choice((0, len(data), chance.randrange(len(data) + 1), chance.randrange(min(len(data), 200) + 1)))
        data = data[:at] + what + data[at:]
    return data


def _shorten(data: bytes, chance: random.Random) -> bytes:
    return data[: int(len(data) * chance.choice((0, 0.01, 0.4, 0.6, 0.9, 0.99, chance.random())))]


def _encode(data: bytes, chance: random.Random) -> bytes:
    encoding = chance.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "utf-7"))
    return data.decode("utf-8", "replace").encode(encoding, "replace")


def _line_ends(data: bytes, chance: random.Random) -> bytes:
    return data.replace(b"\n", chance.choice((b"\r", b"\r\n", b"\n\n", b"\n\r", b"\x0b", b"\xc2\x85")))


def _twice(data: bytes, chance: random.Random) -> bytes:
    return data + chance.choice((b"", b"\n")) + data


BYTES: Sequence[Change] = (
    _flip,
    _flip,
    _cut_out,
    _double,
    _move,
    _insert,
    _insert,
    _shorten,
    _encode,
    _line_ends,
    _twice,
)


# Delimited text ------------------------------------------------------------------------------------------

_CR = "\x1f"  # stands for a carriage return within a field, which Python's reader does not take


def _rows(data: bytes) -> list[list[str]]:
    """The fields of every line, bytes as Latin-1, so that whatever is no UTF-8 stays as it is."""
    whole = data.decode("latin-1").replace("\r\n", "\n").replace("\r", _CR)
    return list(csv.reader(io.StringIO(whole, newline="")))


def _written(rows: Sequence[Sequence[str]], **kind: Any) -> bytes:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n", **kind).writerows(rows)
    return sink.getvalue().replace(_CR, "\r").encode("latin-1")


def _bytes_of(value: str) -> str:
    """A text in the way in which `_rows` holds one."""
    return value.encode("utf-8", "surrogatepass").decode("latin-1")


def _of_rows(change: Callable[[list[list[str]], random.Random], None]) -> Change:
    def changed(data: bytes, chance: random.Random) -> bytes:
        rows = _rows(data)
        change(rows, chance)
        return _written(rows)

    changed.__name__ = change.__name__
    return changed


def _some(rows: Sequence[list[str]], chance: random.Random) -> Iterator[list[str]]:
    """Some of the records: one, a few, or all."""
    records = [row for row in rows[1:] if row]
    yield from chance.sample(records, min(len(records), chance.choice((1, 1, 1, 5, 30, len(records)))))


def _column(rows: Sequence[list[str]], chance: random.Random) -> int:
    """One that has values, more often than not: most of some files are empty."""
    filled = [n for n in range(len(rows[0])) if any(row[n : n + 1] not in ([], [""]) for row in rows[1:])]
    return chance.choice(filled) if filled and chance.random() < 0.8 else chance.randrange(len(rows[0]))


@_of_rows
def _csv_values(rows: list[list[str]], chance: random.Random) -> None:
    at, value = _column(rows, chance), _bytes_of(text(chance))
    for row in _some(rows, chance):
        row[at : at + 1] = [value]


@_of_rows
def _csv_mixed_values(rows: list[list[str]], chance: random.Random) -> None:
    for row in _some(rows, chance):
        row[(at := _column(rows, chance)) : at + 1] = [_bytes_of(text(chance))]


@_of_rows
def _csv_drop_column(rows: list[list[str]], chance: random.Random) -> None:
    at = _column(rows, chance)
    for row in rows:
        del row[at : at + 1]


@_of_rows
def _csv_double_column(rows: list[list[str]], chance: random.Random) -> None:
    at, other = _column(rows, chance), chance.random() < 0.5
    for row in rows:
        row[at:at] = row[at : at + 1]
    if other:
        rows[0][at] = _bytes_of(chance.choice(NAMES))


@_of_rows
def _csv_rename_column(rows: list[list[str]], chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = _column(rows, chance) if chance.random() < 0.5 else chance.randrange(len(rows[0]))
        rows[0][at] = _bytes_of(chance.choice((*NAMES, rows[0][at].upper(), rows[0][at] + " ")))


@_of_rows
def _csv_shuffle_columns(rows: list[list[str]], chance: random.Random) -> None:
    order, header_too = list(range(len(rows[0]))), chance.random() < 0.5
    chance.shuffle(order)
    for row in rows[0 if header_too else 1 :]:
        if len(row) == len(order):
            row[:] = [row[at] for at in order]


@_of_rows
def _csv_field_counts(rows: list[list[str]], chance: random.Random) -> None:
    by = chance.choice((-1, 1, -3, 3, 100))
    for row in _some(rows, chance):
        row[len(row) + min(by, 0) :] = ["x"] * max(by, 0)


@_of_rows
def _csv_lines(rows: list[list[str]], chance: random.Random) -> None:
    at = chance.randrange(1, len(rows))
    rows[at:at] = chance.choice(
        ([[]], [[], [], []], [rows[0]], [rows[at]], rows[1:], [[""]], [["#", "x"]], [rows[0], rows[0]])
    )


@_of_rows
def _csv_no_header(rows: list[list[str]], chance: random.Random) -> None:
    chance.choice((lambda: rows.pop(0), lambda: rows.insert(0, []), lambda: rows.append(rows.pop(0)), rows.sort))()


@_of_rows
def _csv_fewer_lines(rows: list[list[str]], chance: random.Random) -> None:
    rows[1:] = rows[1 : 1 + int(len(rows) * chance.random())]


@_of_rows
def _csv_shuffle_lines(rows: list[list[str]], chance: random.Random) -> None:
    kept = rows[1:]
    chance.shuffle(kept)
    rows[1:] = kept


def _csv_dialect(data: bytes, chance: random.Random) -> bytes:
    kind = chance.choice(({"delimiter": ";"}, {"delimiter": "\t"}, {"delimiter": "|"}, {"quoting": csv.QUOTE_ALL},
                          {"quotechar": "'"}, {"doublequote": False, "escapechar": "\\"}))  # fmt: skip
    return _written(_rows(data), **kind)


CSV: Sequence[Change] = (
    _csv_values, _csv_values, _csv_values, _csv_values, _csv_mixed_values, _csv_mixed_values, _csv_drop_column,
    _csv_double_column, _csv_rename_column, _csv_shuffle_columns, _csv_field_counts, _csv_lines, _csv_no_header,
    _csv_fewer_lines, _csv_shuffle_lines, _csv_dialect,
)  # fmt: skip


# JSON ----------------------------------------------------------------------------------------------------

Place = tuple[Any, Any]  # a list or an object, and an index or key of it


def _places(document: Any) -> list[Place]:
    """Every place in a document that holds something."""
    found: list[Place] = []
    waiting = [document]
    while waiting:
        here = waiting.pop()
        inside = (
            list(here.items()) if isinstance(here, dict) else list(enumerate(here)) if isinstance(here, list) else []
        )
        found.extend((here, key) for key, _ in inside)
        waiting.extend(value for _, value in inside)
    return found


def _of_json(change: Callable[[list[Place], random.Random], None]) -> Change:
    def changed(data: bytes, chance: random.Random) -> bytes:
        whole = [json.loads(data)]
        change(_places(whole), chance)
        return _json(whole[0], chance)

    changed.__name__ = change.__name__
    return changed


def _json(document: Any, chance: random.Random) -> bytes:
    told = json.dumps(document, ensure_ascii=chance.random() < 0.5)
    for sign, literal in _LITERALS.items():
        told = told.replace(f'"{sign}"', literal)
    return told.replace("@@twice@@", "").encode("utf-8", "surrogatepass")


def _leaves(places: list[Place]) -> list[Place]:
    return [(here, key) for here, key in places if not isinstance(here[key], dict | list)] or places


def _alike(places: list[Place], key: Any, chance: random.Random) -> list[Place]:
    """The places of one key, or some of them: what is a column in a table."""
    same = [place for place in _leaves(places) if place[1] == key]
    return chance.sample(same, min(len(same), chance.choice((1, 1, 1, 5, 30, len(same)))))


def _value(before: Any, chance: random.Random) -> Any:
    kinds = (text(chance), text(chance), text(chance), None, True, [], {}, -1, 0, 1e308, 2**53 + 1, 2**63, 2**200,
             [before],
             {"a": before}, str(before), before, *_LITERALS)  # fmt: skip
    return chance.choice(kinds)


@_of_json
def _json_values(places: list[Place], chance: random.Random) -> None:
    _, key = chance.choice(_leaves(places))
    chosen = _alike(places, key, chance)
    value = _value(chosen[0][0][key], chance)
    for here, _ in chosen:
        here[key] = value


@_of_json
def _json_mixed_values(places: list[Place], chance: random.Random) -> None:
    leaves = _leaves(places)
    for here, key in chance.sample(leaves, min(len(leaves), chance.choice((2, 5, 20, 100)))):
        here[key] = text(chance)


@_of_json
def _json_node(places: list[Place], chance: random.Random) -> None:
    here, key = chance.choice(places)
    here[key] = _value(here[key], chance)


@_of_json
def _json_drop(places: list[Place], chance: random.Random) -> None:
    here, key = chance.choice(places)
    for place, same in [(here, key)] if isinstance(here, list) else _alike(places, key, chance) or [(here, key)]:
        del place[same]


@_of_json
def _json_rename(places: list[Place], chance: random.Random) -> None:
    keys = [(here, key) for here, key in places if isinstance(here, dict)]
    if keys:
        _, key = chance.choice(keys)
        name = chance.choice((*NAMES, key.upper(), key + " "))
        for here, same in _alike(keys, key, chance):
            here[name] = here.pop(same)


@_of_json
def _json_key_twice(places: list[Place], chance: random.Random) -> None:
    keys = [(here, key) for here, key in places if isinstance(here, dict)]
    if keys:
        here, key = chance.choice(keys)
        here[f"{key}@@twice@@"] = _value(here[key], chance)


@_of_json
def _json_list(places: list[Place], chance: random.Random) -> None:
    lists = [(here, key) for here, key in places if isinstance(here[key], list)]
    if lists:
        here, key = chance.choice(lists[:3] if chance.random() < 0.5 else lists)
        was = here[key]
        rotated = was[1:] + was[:1]
        here[key] = chance.choice(([], was * 2, [was], was[::-1], was[:1], was[1:], was[: len(was) // 2], rotated,
                                   [None, *was],
                                   {"0": was}, [*was, *was[:1]], [[]], None))  # fmt: skip


@_of_json
def _json_swap(places: list[Place], chance: random.Random) -> None:
    (one, at), (other, to) = chance.choice(places[1:] or places), chance.choice(places[1:] or places)
    one_value, other_value = json.dumps(one[at]), json.dumps(other[to])  # copies: neither may come to hold itself
    one[at], other[to] = json.loads(other_value), json.loads(one_value)


def _json_text(data: bytes, chance: random.Random) -> bytes:
    others = (b"null", b"[]", b"{}", b"0", b'""', b'"x"', b"[[]]", b'{"value":[]}', b"[1,2]", b"{", b"//\n" + data,
              b"[" + data + b"]",
              b"callback(" + data + b")", data + data, b")]}',\n" + data, b'{"error":"x","message":"y"}',
              b"[" * 100_000,
              b'<?xml version="1.0"?><a/>', b"error: unknown variable 'X'")  # fmt: skip
    return chance.choice(others)


JSON: Sequence[Change] = (
    _json_values, _json_values, _json_values, _json_values, _json_mixed_values, _json_mixed_values, _json_node,
    _json_node,
    _json_drop, _json_rename, _json_key_twice, _json_list, _json_list, _json_swap, _json_text,
)  # fmt: skip
