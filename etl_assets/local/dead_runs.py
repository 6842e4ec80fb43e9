"""Runs whose process was killed: nobody else can tell Dagster how they ended.

They would stay "started" for hours or for ever, keep others from their source, and not be made again.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import dagster as dg

from etl_assets.settings import explicit_settings

#: The tag of a run that says which process makes it, see `this_process`.
OWNER = "etl/process"


def bury_those_of_commands(instance: dg.DagsterInstance) -> None:
    """Fail the runs of a `./dev run` that was killed."""
    statuses = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
        owner = run.tags.get(OWNER)
        if owner and owner != this_process() and not is_alive(owner):
            _bury(instance, run, "Its process was killed; what it had not finished is made again.")


def bury_those_of_uis(instance: dg.DagsterInstance) -> None:
    """Fail the runs of a UI that was killed: the server that started them was killed with it."""
    statuses = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
        server = json.loads(run.tags.get(".dagster/grpc_info", "{}")).get("socket")
        if server and not _is_served(server):
            _bury(instance, run, "The UI that started it was killed.")


def _bury(instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> None:
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    instance.report_run_failed(run, why)


def this_process() -> str:
    """Identify this process: a later one with the same number, or one of another machine, is told apart from it."""
    return f"{os.getpid()}.{_started(os.getpid())}.{socket.gethostname()}"


def is_alive(owner: str) -> bool:
    """Whether a process runs; one on another machine is assumed to, since nothing is known about it.

    With the embedded default, one under another host name is dead: there is only one machine, which may have been
    renamed, and only one such process runs at a time.
    """
    pid, started, host = owner.split(".", 2)
    if host != socket.gethostname():
        return explicit_settings().dagster_storage_url is not None
    return _started(int(pid)) == started


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it has ended (fields 22 and 3 of /proc/pid/stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0
