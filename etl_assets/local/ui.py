"""The Dagster UI of an ETL_HOME: one at a time, which the other commands know of.

`dagster dev` brings a daemon along, and two of them would take each other's runs for dead. So the UI's process holds a
lock, which says where it is: it is kept when Dagster takes the process over, and goes with it, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from etl_assets.settings import PROJECT, explicit_settings, home, settings

if TYPE_CHECKING:  # it takes seconds to import, and most commands need none of it
    from dagster import DagsterInstance

_ENDS_WITHIN = 60.0


class Running(NamedTuple):
    """A UI that runs: its process, and where people open it."""

    pid: int
    url: str


def running() -> Running | None:
    """The UI that runs, if one does."""
    try:
        with _lock().open() as lock:
            if _held(lock.fileno()):
                return Running(*json.load(lock))
    except (FileNotFoundError, ValueError, TypeError):  # there never was one, or it is about to begin
        pass
    return None


def end() -> None:
    """End the UI that runs, and wait until it has ended: whatever it works with may be stopped then."""
    found, deadline = running(), time.monotonic() + _ENDS_WITHIN
    if found is None:
        return
    print(f"ending the UI at {found.url} …", file=sys.stderr, flush=True)
    with suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGINT)  # as Ctrl-C does
    while running() == found:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"The UI at {found.url} does not end. End it with kill {found.pid}, then call this again."
            )
        time.sleep(0.1)


def serve(port: int) -> int:
    """Take this process over with `dagster dev`, which serves the UI and runs the daemon.

    Raises RuntimeError if a UI runs already.
    """
    url = f"http://127.0.0.1:{port}"
    _hold(url)
    if explicit_settings().dagster_storage_url is None:
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            bury_the_dead(instance)
    print(f"UI: {url}, in a moment  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    # Somewhere else, people open it at an address that is configured.
    os.environ.setdefault("ETL_DAGSTER_UI_URL", url)
    # A sensor waits as long for its source as the settings say; Dagster alone would break it off after a minute.
    os.environ.setdefault("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", "600")
    # What a script starts in the background ignores SIGINT, and Dagster then ignores SIGTERM too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The workspace, so that wherever this is called from, sensors go on from what they know under the same name.
    where = ["--log-format", "json"] if settings().log_format == "json" else []
    where += ["--workspace", str(PROJECT / "workspace.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    # Dagster would rather be started by `dg dev`, which starts this same command beneath itself.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    os.execv(sys.executable, [sys.executable, *quiet, "-m", "dagster", "dev", *where])


def _lock() -> Path:
    return home() / "ui"


def _hold(url: str) -> None:
    """Take the lock for as long as this process is there, whatever takes it over."""
    lock = os.open(_lock(), os.O_RDWR | os.O_CREAT, 0o600)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if found := running():
                why = f"A UI of {home()} runs already, at {found.url}; end it (Ctrl-C there) to start another."
                raise RuntimeError(why) from None
            time.sleep(0.1)  # somebody asks just now, or is about to say where his is
    os.ftruncate(lock, 0)
    os.write(lock, json.dumps([os.getpid(), url]).encode())
    os.set_inheritable(lock, True)


def _held(descriptor: int) -> bool:
    """Whether another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def bury_the_dead(instance: DagsterInstance) -> None:
    """Runs of a UI that was killed do not stay "started" for hours, with all that waits for them: they start again.

    Dagster itself has nobody left to tell how they ended: the server that started them went with the UI.
    """
    from dagster import DagsterRunStatus, RunsFilter

    statuses = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    for run in instance.get_runs(RunsFilter(statuses=statuses)):
        server = json.loads(run.tags.get(".dagster/grpc_info", "{}")).get("socket")
        if server and not _is_served(server):
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            instance.report_run_failed(run, "The UI that started it was killed.")


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0
