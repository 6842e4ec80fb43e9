"""The source server as a process of its own: the one behind `./dev`, which outlives the command that started it.

Here: starting and ending it, what it keeps in its folder, and its main program. Not here: what it answers
(source_server.py).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etl_assets.local.recordings import Recordings, last_day, publications
from etl_assets.local.routes import Response
from etl_assets.local.source_server import HOST, ROUTES, Handler, Server
from etl_assets.local.whole import read_line, write_whole

#: The path under which the process says which one it is.
_IDENTITY = "_server"


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
            running = self._running()
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
            self._end(self._running())

    def is_running(self) -> bool:
        """Whether this server answers."""
        return self._running() is not None

    def url(self) -> str:
        """The base URL of the running server."""
        running = self._running()
        if running is None:
            raise RuntimeError("the source server is not running: `./dev up` starts it")
        return f"http://{HOST}:{running['port']}"

    def token(self, given: str | None = None) -> str:
        """The token that protected routes accept: `given`, else the previous one, else a new one."""
        with self._lock():
            file = self.home / "token"
            known = read_line(file)
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
        return Recordings(Path(state["data"]), read_line(self._as_of_file))

    @property
    def _as_of_file(self) -> Path:
        return self.home / "as_of"

    def _state(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads((self.home / "server.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return state

    def _running(self) -> dict[str, Any] | None:
        """The server's state if it answers. Its process id alone may belong to another process by now."""
        state = self._state()
        if state is None:
            return None
        # http.client and not urllib: a proxy in the environment is not for 127.0.0.1.
        connection = http.client.HTTPConnection(HOST, state["port"], timeout=5)
        try:
            connection.request("GET", f"/{_IDENTITY}")
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        is_ours = isinstance(answer, dict) and answer.get("home") == str(self.home.resolve())
        return state if is_ours and answer.get("pid") == state["pid"] else None

    def _spawn(self, data: Path) -> None:
        # The command returns once the port is open: it forks by itself after binding it.
        done = subprocess.run(
            [sys.executable, "-m", "etl_assets.local.source_process", "--data", data, "--home", self.home.resolve()],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the source server did not start:\n{done.stderr.strip()}")

    def _end(self, running: dict[str, Any] | None) -> None:
        if running is None:
            return
        os.kill(running["pid"], signal.SIGTERM)
        for _ in range(250):
            if not self.is_running():
                return
            time.sleep(0.02)
        os.kill(running["pid"], signal.SIGKILL)

    @contextlib.contextmanager
    def _lock(self) -> Generator[None]:
        """One start or stop at a time, across processes; the system releases it if the holder dies."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _identity(home: Path) -> Response:
    """What this process answers to whoever asks which one it is."""
    return Response(200, json.dumps({"home": str(home), "pid": os.getpid()}).encode(), "application/json")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Replay recorded sources in the background.")
    parser.add_argument("--data", type=Path, required=True, help="<source>/<publication date>/<file>")
    parser.add_argument("--home", type=Path, required=True, help="where the date, port and log are kept")
    arguments = parser.parse_args()
    data, home = arguments.data.resolve(), arguments.home.resolve()
    home.mkdir(parents=True, exist_ok=True)

    # Date and token are read at every request: another process may have changed them.
    def server_on(port: int) -> Server:
        return Server(
            port,
            lambda: Recordings(data, read_line(home / "as_of")),
            lambda: read_line(home / "token") or "",
            {**ROUTES, _IDENTITY: lambda _: _identity(home)},
            Handler,
        )

    state = SourceServer(home)._state()
    try:
        server = server_on(state["port"] if state else 0)
    except OSError:  # the remembered port is taken by now
        server = server_on(0)

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
