"""A server that replays recorded sources over real HTTP on 127.0.0.1.

Here: how a recording is served (conditional requests, `.gz` unpacked). Not here: which publication is shown on which
date (recordings.py), how the APIs answer (apis), the detached process behind `./dev` (source_process.py), fetching
(etl_assets.sources), and the recordings themselves (sample, or a user's folder).

A folder of recordings is `<source>/<publication date>/<file>[.gz]`, the date being a day, a month or a
year. `GET /<source>/<file>` answers with the newest publication not after the as-of date; a source that has
none that old shows its oldest; files that lie in no dated folder are always shown. `GET /` lists it all.

A source that is an API rather than a file is one more `Route`, mounted in `ROUTES` under the first segment
of its path.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from etl_assets.local.apis import census, gho, retail, treasury
from etl_assets.local.recordings import Recordings, last_day, publications
from etl_assets.local.routes import Request, Response, Route
from etl_assets.local.whole import read_line

HOST = "127.0.0.1"
_log = logging.getLogger(__name__)

#: API sources by first path segment. Everything else is a file.
ROUTES: dict[str, Route] = {"who_gho": gho(), "treasury": treasury(), "census": census, "retail": retail}


# --- what it answers


def replay_file(request: Request) -> Response:
    """The default route: the recording of that name, or 304 where the caller has it already."""
    if request.method not in ("GET", "HEAD"):
        return Response(405, b"only GET and HEAD\n", headers={"Allow": "GET, HEAD"})
    recording = request.recordings.find(*request.segments) if request.segments else None
    if recording is None:
        return Response(404, f"no recording of {request.path}; GET / lists what there is\n".encode())
    etag = recording.etag
    headers = {"ETag": etag, "Last-Modified": format_datetime(recording.published, usegmt=True)}
    if _is_unchanged(request.headers, etag, recording.published):
        return Response(304, headers=headers)
    return Response(200, recording.read(), recording.content_type, headers)


def _is_unchanged(headers: Mapping[str, str], etag: str, published: datetime) -> bool:
    if (known := headers.get("if-none-match")) is not None:  # decides alone where both are sent (RFC 9110)
        return known.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(","))
    try:
        return published <= parsedate_to_datetime(headers["if-modified-since"])
    except (KeyError, TypeError, ValueError):  # not sent, or not a date: no condition
        return False


def _index(recordings: Recordings) -> Response:
    sources = {
        source: {"publication": shown, "files": recordings.files(source)}
        for source, shown in recordings.shown().items()
    }
    content = {"as_of": recordings.as_of, "sources": sources}
    return Response(200, json.dumps(content, indent=2).encode() + b"\n", "application/json")


# --- the server


def without_key(text: str) -> str:
    """An address with the API key in it masked."""
    return re.sub(r"(?i)((?:^|[?&])key=)[^&\s]*", r"\1***", text)


class Server(ThreadingHTTPServer):
    """Answers from recordings: by its routes, and else by replaying a file.

    The recordings, and the token that protected routes accept, are asked for at every request: both may have changed.
    """

    daemon_threads = True
    request_queue_size = 128  # with the default of 5, the sixth simultaneous client waits a second

    def __init__(
        self,
        port: int,
        recordings: Callable[[], Recordings],
        token: Callable[[], str],
        routes: Mapping[str, Route],
        handler: type[Handler],
    ) -> None:
        self.recordings, self.token, self.routes = recordings, token, routes
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__((HOST, port), handler)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{HOST}:{self.server_port}"

    def respond(self, request: Request) -> Response:
        """Answer a request."""
        if not request.segments:
            return _index(request.recordings)
        route = self.routes.get(request.segments[0])
        return (route(request) if route else None) or replay_file(request)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client in a thread, and know its connection until it ends."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a client's connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close the listening socket and all connections.

        A handler's thread outlives the socket on a kept-alive connection, and would go on answering clients it knows.
        """
        self.closing.set()
        super().server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error; that a client went away is none here."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            _log.error("%s", traceback.format_exc())


class Handler(BaseHTTPRequestHandler):
    """Answers one client's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else headers and body in two writes wait 40 ms for each other's ACK
    server: Server  # pyrefly: ignore[bad-override-mutable-attribute] # nobody else gives it one

    def _handle(self) -> None:
        # A body left unread would be taken for the connection's next request.
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        self.answer(path, query, {name.lower(): value for name, value in self.headers.items()})

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _handle  # noqa: N815 - http.server's names

    def answer(self, path: str, query: str, headers: Mapping[str, str]) -> None:
        """Answer a request; header names are in lower case."""
        response = self.response(path, query, headers)
        self.send_head(response, {"Content-Length": str(len(response.body))})
        if self.has_body(response):
            self.wfile.write(response.body)

    def response(self, path: str, query: str, headers: Mapping[str, str]) -> Response:
        """The answer to a request; an error in a recording is answered, too."""
        try:
            # Split before decoding: an encoded slash is part of a name.
            segments = tuple(unquote(part) for part in path[1:].split("/")) if path != "/" else ()
            fields = parse_qs(query, keep_blank_values=True)
            recordings = self.server.recordings()
            request = Request(self.command, path, segments, fields, headers, recordings, self.server.token())
            return self.server.respond(request)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a recording, a client is owed an answer
            _log.exception("cannot answer %s", without_key(self.path))
            return Response(500, f"cannot answer {path}: {type(error).__name__}: {error}\n".encode())

    def send_head(self, response: Response, framing: Mapping[str, str]) -> None:
        """Send what comes before the body; the headers in `framing` say where the body ends."""
        self.send_response(response.status)
        of_body = {} if response.status in (204, 304) else {"Content-Type": response.content_type, **framing}
        for name, value in (*response.headers.items(), *of_body.items()):
            self.send_header(name, value)
        self.end_headers()

    def has_body(self, response: Response) -> bool:
        """Whether a body follows."""
        return self.command != "HEAD" and response.status not in (204, 304)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log through the module's logger instead of to stderr."""
        _log.info("%s", without_key(format % args))


@contextlib.contextmanager
def serve(
    data: Path,
    *,
    as_of: str | Path | None = None,
    routes: Mapping[str, Route] = ROUTES,
    token: str = "",
    handler: type[Handler] = Handler,
) -> Generator[str]:
    """Serve `data` from a thread of this process and yield the base URL.

    `as_of` is a date, or a file that holds one and is read at every request. `routes` replaces `ROUTES`. `token` is
    what protected routes accept. `handler` takes the place of `Handler`, where tests need other behaviour.
    """
    publications(data)  # complains now rather than at the first request
    if isinstance(as_of, str):
        last_day(as_of)

    def recordings() -> Recordings:
        return Recordings(data, read_line(as_of) if isinstance(as_of, Path) else as_of)

    server = Server(0, recordings, lambda: token, routes, handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="sources", daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
