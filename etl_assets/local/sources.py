"""A server that replays recorded sources over real HTTP on 127.0.0.1.

Here: how a recording is served (conditional requests, `.gz` unpacked), and the detached process behind `./dev`.
Not here: which publication is shown on which date (recordings.py), how the APIs answer (apis), fetching
(etl_assets.sources), and the recordings themselves (sample, or a user's folder).

A folder of recordings is `<source>/<publication date>/<file>[.gz]`, the date being a day, a month or a
year. `GET /<source>/<file>` answers with the newest publication not after the as-of date; a source that has
none that old shows its oldest; files that lie in no dated folder are always shown. `GET /` lists it all.

A source that is an API rather than a file is one more `Route`, mounted in `ROUTES` under the first segment
of its path.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from etl_assets.local.apis import census, gho, retail, treasury
from etl_assets.local.recordings import Recordings, last_day, publications
from etl_assets.local.routes import Request, Response, Route
from etl_assets.local.whole import write_whole

HOST = "127.0.0.1"
_IDENTITY_PATH = "/_server"
_log = logging.getLogger(__name__)


# Routes --------------------------------------------------------------------------------------------------

ROUTES: dict[str, Route] = {"who_gho": gho(), "treasury": treasury(), "census": census, "retail": retail}
"""API sources by first path segment. Everything else is a file."""


def _json(content: object) -> Response:
    return Response(200, json.dumps(content, indent=2).encode() + b"\n", "application/json")


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


# The server ----------------------------------------------------------------------------------------------


def without_key(text: str) -> str:
    """Return an address with the API key in it masked."""
    return re.sub(r"(?i)((?:^|[?&])key=)[^&\s]*", r"\1***", text)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, the sixth simultaneous client waits a second

    def __init__(
        self,
        port: int,
        data: Path,
        as_of: str | Path | None,
        routes: Mapping[str, Route] | None = None,
        home: Path | None = None,
        token: str | Path = "",
        handler: type[Handler] | None = None,
    ) -> None:
        self.data, self.as_of, self.home, self._token = data, as_of, home, token
        self.routes = ROUTES if routes is None else routes
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__((HOST, port), handler or Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}"

    def respond(self, request: Request) -> Response:
        if not request.segments:
            return self._index(request.recordings)
        if request.path == _IDENTITY_PATH:
            return self._identity()
        route = self.routes.get(request.segments[0])
        return (route(request) if route else None) or replay_file(request)

    def token(self) -> str:
        """The token that protected routes accept; like the date, it is read at every request if it is in a file."""
        return (_first_line(self._token) or "") if isinstance(self._token, Path) else self._token

    def recordings(self) -> Recordings:
        """The recordings as of now: another process may have changed the date since the last request."""
        as_of = _first_line(self.as_of) if isinstance(self.as_of, Path) else self.as_of
        return Recordings(self.data, as_of)

    def _index(self, recordings: Recordings) -> Response:
        sources = {
            source: {"publication": shown, "files": recordings.files(source)}
            for source, shown in recordings.shown().items()
        }
        return _json({"as_of": recordings.as_of, "sources": sources})

    def _identity(self) -> Response:
        return _json({"home": str(self.home), "pid": os.getpid(), "port": self.server_port})

    # A handler thread outlives the listening socket on a kept-alive connection; without this, a server that
    # was closed would go on answering clients it already knows.
    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        self.closing.set()
        super().server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that went away is no error here
            _log.error("%s", traceback.format_exc())


class Handler(BaseHTTPRequestHandler):
    """Answers one client's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else headers and body in two writes wait 40 ms for each other's ACK
    server: _Server  # pyrefly: ignore[bad-override-mutable-attribute] # nobody else gives it one

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
        """Return the answer to a request; an error in a recording is answered, too."""
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
    routes: Mapping[str, Route] | None = None,
    token: str = "",
    handler: type[Handler] | None = None,
) -> Generator[str]:
    """Serve `data` from a thread of this process and yield the base URL.

    `as_of` is a date, or a file that holds one and is read at every request. `routes` replaces `ROUTES`. `token` is
    what protected routes accept. `handler` takes the place of `Handler`, where tests need other behaviour.
    """
    publications(data)  # complains now rather than at the first request
    if isinstance(as_of, str):
        last_day(as_of)
    server = _Server(0, data, as_of, routes, token=token, handler=handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="sources", daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# The detached process ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceServer:
    """The source server as a process of its own, which outlives whoever started it.

    `home` keeps its state: `as_of` (the date shown), `token` (what protected routes accept), `server.json`
    (process, port, data) and `server.log`.
    """

    home: Path

    def start(self, data: Path, as_of: str | None = None) -> str:
        """Serve `data` and return the base URL; a server that already does so is kept.

        The port stays the same from one start to the next while it is free. The date chosen for one
        folder is not carried over to another.
        """
        data = data.resolve()
        if not publications(data):
            raise FileNotFoundError(f"no sources in {data}; expected <source>/<publication date>/<file>")
        if as_of is not None:
            last_day(as_of)
        with self._lock():
            state = self._state()
            running = self._identity()
            if state and state["data"] != str(data):
                self._end(running)
                running = None
                self._as_of_file.unlink(missing_ok=True)
            if as_of is not None:
                write_whole(self._as_of_file, as_of + "\n")
            if not running:
                self._spawn(data)
        return self.url()

    def stop(self) -> None:
        """End the process, if there is one. The date and the port are remembered."""
        with self._lock():
            self._end(self._identity())

    def is_running(self) -> bool:
        """Whether this server answers."""
        return self._identity() is not None

    def url(self) -> str:
        """The base URL of the running server."""
        identity = self._identity()
        if identity is None:
            raise RuntimeError("the source server is not running: `./dev up` starts it")
        return f"http://{HOST}:{identity['port']}"

    def token(self, given: str | None = None) -> str:
        """Return the token that protected routes accept: `given`, else the previous one, else a new one."""
        with self._lock():
            file = self.home / "token"
            known = _first_line(file)
            token = given or known or secrets.token_urlsafe(24)
            if token != known:
                write_whole(file, token + "\n")
        return token

    def publish(self, as_of: str) -> dict[str, str]:
        """Show the sources as of a date from now on; returns source -> publication now shown."""
        last_day(as_of)
        data = self.recordings().data
        write_whole(self._as_of_file, as_of + "\n")
        return Recordings(data, as_of).shown()

    def recordings(self) -> Recordings:
        """What is served, as of the date that is shown now."""
        state = self._state()
        if state is None:
            raise RuntimeError("the source server was never started: `./dev up` starts it")
        return Recordings(Path(state["data"]), _first_line(self._as_of_file))

    @property
    def _as_of_file(self) -> Path:
        return self.home / "as_of"

    def _state(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads((self.home / "server.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return state

    def _identity(self) -> dict[str, Any] | None:
        """Return what the server says about itself. A process id alone may belong to another process by now."""
        state = self._state()
        if state is None:
            return None
        # http.client and not urllib: a proxy in the environment is not for 127.0.0.1.
        connection = http.client.HTTPConnection(HOST, state["port"], timeout=5)
        try:
            connection.request("GET", _IDENTITY_PATH)
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        is_ours = isinstance(answer, dict) and answer.get("home") == str(self.home.resolve())
        return answer if is_ours and answer.get("pid") == state["pid"] else None

    def _spawn(self, data: Path) -> None:
        # The command returns once the port is open: it forks by itself after binding it.
        done = subprocess.run(
            [sys.executable, "-m", "etl_assets.local.sources", "--data", data, "--home", self.home.resolve()],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the source server did not start:\n{done.stderr.strip()}")

    def _end(self, identity: dict[str, Any] | None) -> None:
        if identity is None:
            return
        os.kill(identity["pid"], signal.SIGTERM)
        for _ in range(250):
            if not self.is_running():
                return
            time.sleep(0.02)
        os.kill(identity["pid"], signal.SIGKILL)

    @contextlib.contextmanager
    def _lock(self) -> Generator[None]:
        """One start or stop at a time, across processes; the system releases it if the holder dies."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _first_line(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None


def _main() -> None:
    parser = argparse.ArgumentParser(description="Replay recorded sources in the background.")
    parser.add_argument("--data", type=Path, required=True, help="<source>/<publication date>/<file>")
    parser.add_argument("--home", type=Path, required=True, help="where the date, port and log are kept")
    arguments = parser.parse_args()
    data, home = arguments.data.resolve(), arguments.home.resolve()
    home.mkdir(parents=True, exist_ok=True)

    state = SourceServer(home)._state()
    try:
        server = _Server(state["port"] if state else 0, data, home / "as_of", home=home, token=home / "token")
    except OSError:  # the remembered port is taken by now
        server = _Server(0, data, home / "as_of", home=home, token=home / "token")

    if child := os.fork():
        written = {"pid": child, "port": server.server_port, "data": str(data)}
        write_whole(home / "server.json", json.dumps(written) + "\n")
        print(server.url, flush=True)
        os._exit(0)

    os.setsid()
    # A background job of a script inherits an ignored SIGINT, and would pass it on.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    log = os.open(home / "server.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    server.serve_forever()


if __name__ == "__main__":
    _main()
