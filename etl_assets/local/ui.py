"""The Dagster UI of an ETL_HOME: one at a time, and known to the other commands.

`dagster dev` also starts a daemon, and two daemons would take each other's runs for dead. So the UI's process locks a
file that says where the UI is. The lock stays when Dagster takes the process over, and ends with it, however it ends.
If the process was killed, its daemon and servers live on: they are known by a variable, and ended by the next command.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from etl_assets.local.postgres import free_port
from etl_assets.settings import PROJECT, explicit_settings, home, settings

_ENDS_WITHIN = 60.0
#: In the environment of a UI and of all that it starts: which one they are of.
_MARK = "ETL_UI"


class Running(NamedTuple):
    """A running UI: its process, and the address where people open it."""

    pid: int
    url: str


def running() -> Running | None:
    """The running UI, if there is one."""
    try:
        with _lock().open() as lock:
            if _held(lock.fileno()):
                return Running(*json.load(lock))
    except (FileNotFoundError, ValueError, TypeError):  # there never was one, or it is about to begin
        pass
    return None


def end() -> None:
    """End the running UI and wait until it has ended: only then may what it works with be stopped."""
    found, deadline = running(), time.monotonic() + _ENDS_WITHIN
    if found is None:
        _end_left_behind()
        return
    print(f"ending the UI at {found.url} …", file=sys.stderr, flush=True)
    with suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGINT)  # as Ctrl-C does
    while running() == found:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"The UI at {found.url} does not stop. Stop it with kill {found.pid}, then run this again."
            )
        time.sleep(0.1)


def serve(port: int) -> int:
    """Take this process over with `dagster dev`, which serves the UI and runs the daemon.

    Raises RuntimeError if a UI runs already, or the port is taken.
    """
    url = f"http://127.0.0.1:{port}"
    _hold(url)
    _end_left_behind()
    try:
        free_port(port)
    except OSError as error:
        why = f"Port {port} cannot be used ({error.strerror}). Choose another: ./dev ui --port NUMBER"
        raise RuntimeError(why) from error
    os.environ[_MARK] = str(_lock())
    if explicit_settings().dagster_storage_url is None:
        # They take seconds to import, and most commands need none of it.
        from etl_assets.local.dead_runs import bury_those_of_uis
        from etl_assets.storage.dagster_storage import dagster_instance

        with dagster_instance() as instance:
            bury_those_of_uis(instance)
    print(f"UI: {url}, in a moment  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    # A configured address stays: it is where people open a UI that is somewhere else.
    os.environ.setdefault("ETL_DAGSTER_UI_URL", url)
    # A sensor may wait for its source as long as the settings say; by default Dagster breaks it off after a minute.
    os.environ.setdefault("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", "600")
    # What a script starts in the background ignores SIGINT, and Dagster then ignores SIGTERM too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The workspace is named, so that sensors keep their state under the same name wherever this is called from.
    where = ["--log-format", "json"] if settings().log_format == "json" else []
    where += ["--workspace", str(PROJECT / "workspace.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    # Dagster would rather be started by `dg dev`, which starts this same command beneath itself.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    os.execv(sys.executable, [sys.executable, *quiet, "-m", "dagster", "dev", *where])


def _lock() -> Path:
    return home() / "ui"


def _hold(url: str) -> None:
    """Take the lock for as long as this process lives, whatever program takes the process over."""
    lock = os.open(_lock(), os.O_RDWR | os.O_CREAT, 0o600)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if found := running():
                why = f"A UI for {home()} is already running at {found.url}; stop it (Ctrl-C there) to start another."
                raise RuntimeError(why) from None
            time.sleep(0.1)  # somebody is just asking, or is about to write where its UI is
    os.ftruncate(lock, 0)
    os.write(lock, json.dumps([os.getpid(), url]).encode())
    os.set_inheritable(lock, True)


def _end_left_behind() -> None:
    """End what a killed UI has left running."""
    mark, deadline = f"{_MARK}={_lock()}\0".encode(), time.monotonic() + _ENDS_WITHIN / 4
    while left := [p for p in Path("/proc").iterdir() if p.name.isdigit() and mark in _environment(p)]:
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.5)


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # it has ended, or is somebody else's
        return b""


def _held(descriptor: int) -> bool:
    """Whether another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
