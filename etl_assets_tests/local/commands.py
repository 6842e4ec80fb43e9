"""`./dev` as people run it: a process of its own, in a house of its own.

It is forked from a process that has imported what commands need: Dagster's import takes longer than most of them.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_TOO_LONG = 120
_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(["etl_assets.definitions", "etl_assets.local.run", "etl_assets.local.rebuild"])


@dataclass(frozen=True)
class Command:
    """A command that is running, or has ended."""

    process: ForkServerProcess
    output: Path

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.is_alive()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        assert self.process.pid
        os.kill(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End it with -9, and see it end."""
        self.process.kill()
        self.process.join()

    def finish(self) -> tuple[int, str]:
        """Wait for its end; gives its exit status, and what it printed."""
        self.process.join(_TOO_LONG)
        printed = self.output.read_text()
        if self.process.exitcode is None:
            self.kill()
            raise AssertionError(f"it has not ended in {_TOO_LONG} s, and printed:\n{printed[-3000:]}")
        return self.process.exitcode, printed


@dataclass(frozen=True)
class Dev:
    """The commands behind `./dev`, with ETL_HOME in a folder, which is also where they are given."""

    folder: Path
    settings: Mapping[str, str]
    #: All commands that were given.
    commands: list[Command] = field(default_factory=list)

    def start(self, *arguments: str, module: str = "etl_assets.local") -> Command:
        """Start a command; what it prints goes to one file."""
        output = self.folder / f"printed-{len(self.commands)}.txt"
        process = _WARM.Process(target=_run, args=(module, arguments, self.folder, self.environment(), output))
        process.start()
        self.commands.append(Command(process, output))
        return self.commands[-1]

    def do(self, *arguments: str) -> tuple[int, str]:
        """Run a command; gives its exit status and what it printed."""
        return self.start(*arguments).finish()

    def environment(self) -> dict[str, str]:
        """The environment of the commands: nothing of the shell's own settings."""
        others = {k: v for k, v in os.environ.items() if not k.startswith(("ETL_", "AWS_", "DAGSTER_", "PG"))}
        others.pop("PYTHONDONTWRITEBYTECODE", None)
        return others | {"ETL_HOME": str(self.folder / "home"), "ETL_HTTP_RETRY_WAIT": "0.01"} | dict(self.settings)


def _run(module: str, arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str], output: Path) -> None:
    """What `python -m module` does, given in a folder and an environment, with what it prints going to a file."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
