"""How the server of local sources misbehaves where a test asks for it, and what it was asked."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qs

from etl_assets.local.routes import Response
from etl_assets.local.source_server import Handler, without_key

HTML = b"<!DOCTYPE html>\n<html><head><title>Missing Key</title></head><body>Sorry.</body></html>\n"
HTML_PATH = "/_faults/page.html"


@dataclass(frozen=True)
class Fault:
    """One way to answer wrongly. Built by the class methods, queued with `Faults.add`."""

    instead: Response | None = None
    delay: float = 0.0
    share_sent: float = 1.0
    reset_connection: bool = False
    change: Callable[[bytes], bytes] | None = None
    is_announced: bool = True

    @classmethod
    def status(cls, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Fault:
        """Another status, such as 404, 500, or 429 with `{"Retry-After": "1"}`."""
        return cls(Response(status, body or f"status {status}\n".encode(), headers=headers or {}))

    @classmethod
    def body(cls, body: bytes, content_type: str = "text/csv") -> Fault:
        """200 with these bytes and an ETag of their own, as if the source had published them."""
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        return cls(Response(200, body, content_type, {"ETag": etag}))

    @classmethod
    def empty(cls) -> Fault:
        """200 with no body at all."""
        return cls.body(b"")

    @classmethod
    def html(cls) -> Fault:
        """200 with an error page in place of the data."""
        return cls.body(HTML, "text/html; charset=utf-8")

    @classmethod
    def redirect(cls) -> Fault:
        """A redirect to an error page; who follows it sees 200 and HTML."""
        return cls(Response(302, headers={"Location": HTML_PATH}))

    @classmethod
    def changed(cls, change: Callable[[bytes], bytes]) -> Fault:
        """The right answer with its body changed, such as a page that is a row short."""
        return cls(change=change)

    @classmethod
    def truncated(cls, share_sent: float = 0.5, *, is_announced: bool = True) -> Fault:
        """The right answer, but the connection ends before all of it was sent.

        With `is_announced`, a Content-Length says how much that is; without one, nobody can tell.
        """
        return cls(share_sent=share_sent, is_announced=is_announced)

    @classmethod
    def reset(cls, share_sent: float = 0.5) -> Fault:
        """The right answer, but the connection is reset (RST) part of the way."""
        return cls(share_sent=share_sent, reset_connection=True)

    @classmethod
    def hang(cls, seconds: float = 3600.0) -> Fault:
        """Silence, then the right answer. Ends early when the server is closed."""
        return cls(delay=seconds)


@dataclass(frozen=True)
class LoggedRequest:
    """One request as it was answered; header names in lower case, an API key and a token as `***`."""

    method: str
    path: str
    query: str
    status: int
    headers: Mapping[str, str]


#: What parameters must be in a request, whatever others there are: `{"page[number]": "3"}`; None: must not be.
Query = Mapping[str, str | None]


class Faults:
    """The misbehaviour queued for each path, or for some queries of a path, and the log of every request.

    >>> faults = Faults()
    >>> faults.add("/protest_events/ccc.csv", Fault.status(500), Fault.status(500))
    >>> faults.add("/treasury/services/api/…/title_xii", Fault.html(), query={"page[number]": "3"})
    >>> with serve(data, handler=faults.handler()) as url: ...   # the third request for ccc.csv is answered properly
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queued: list[tuple[str, Query, deque[Fault]]] = []
        self._standing: list[tuple[str, Query, Fault]] = []
        self._log: list[LoggedRequest] = []

    def handler(self) -> type[Handler]:
        """What makes a server misbehave so."""
        return type("_Faulty", (_FaultyHandler,), {"faults": self})

    def add(self, path: str, *faults: Fault, query: Query | None = None) -> None:
        """Answer the next requests for `path` (with this `query`) with these, one each, in this order."""
        with self._lock:
            self._queued.append((path, query or {}, deque(faults)))

    def always(self, path: str, fault: Fault, query: Query | None = None) -> None:
        """Answer every request for `path` (with this `query`) with this, once what was queued is used up."""
        with self._lock:
            self._standing.insert(0, (path, query or {}, fault))  # the last word counts

    def clear(self) -> None:
        """Behave again from now on. The log stays."""
        with self._lock:
            self._queued.clear()
            self._standing.clear()

    @property
    def log(self) -> list[LoggedRequest]:
        """Every request so far, oldest first."""
        with self._lock:
            return list(self._log)

    def count(
        self, path: str, *, method: str | None = None, status: int | None = None, query: Query | None = None
    ) -> int:
        """How many requests for `path` there were, of all or of one method, status or query."""
        return sum(
            entry.path == path
            and method in (None, entry.method)
            and status in (None, entry.status)
            and _has(entry.query, query or {})
            for entry in self.log
        )

    def take(self, path: str, query: str) -> Fault:
        """How to answer a request: the next fault that is queued for it, or none."""
        with self._lock:
            for at, wanted, faults in self._queued:
                if faults and at == path and _has(query, wanted):
                    return faults.popleft()
            for at, wanted, fault in self._standing:
                if at == path and _has(query, wanted):
                    return fault
        return Fault()

    def record(self, entry: LoggedRequest) -> None:
        """Write down a request as it was answered."""
        with self._lock:
            self._log.append(entry)


def _has(query: str, wanted: Query) -> bool:
    fields = parse_qs(query, keep_blank_values=True) if wanted else {}
    return all(fields.get(name, [None]) == [value] for name, value in wanted.items())


class _FaultyHandler(Handler):
    """Answers as the next fault says, and writes down what it was asked."""

    faults: Faults

    def answer(self, path: str, query: str, headers: Mapping[str, str]) -> None:
        """See `Handler.answer`."""
        fault = self.faults.take(path, query)
        if fault.delay and self.server.closing.wait(fault.delay):
            self.close_connection = True
            return
        if path == HTML_PATH:
            response = Response(200, HTML, "text/html; charset=utf-8")
        else:
            response = fault.instead or self.response(path, query, headers)
        if fault.change:
            response = replace(response, body=fault.change(response.body))
        shown = {**headers, **({"authorization": "***"} if "authorization" in headers else {})}
        self.faults.record(LoggedRequest(self.command, path, without_key(query), response.status, shown))
        # Without a length, the end of the connection is what ends the answer.
        length = {"Content-Length": str(len(response.body))} if fault.is_announced else {"Connection": "close"}
        self.send_head(response, length)
        if self.has_body(response):
            self.wfile.write(response.body[: int(len(response.body) * fault.share_sent)])
        if fault.share_sent < 1:
            self.close_connection = True
        if fault.reset_connection:
            # Lingering for zero seconds makes close() send RST. The descriptor is closed directly, since
            # the socket object would first say goodbye with FIN, which is how a truncated answer looks.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
