"""`./dev` as people run it: a process of its own, in a house of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_TOO_LONG = 120


@dataclass(frozen=True)
class Dev:
    """The commands behind `./dev`, with ETL_HOME in a folder, which is also where they are given."""

    folder: Path
    settings: Mapping[str, str]
    #: All that commands which were waited for have printed.
    printed: list[str] = field(default_factory=list)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command; what it prints goes to one pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "etl_assets.local", *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def do(self, *arguments: str) -> tuple[int, str]:
        """Run a command; gives its exit status and what it printed."""
        return self.finish(self.start(*arguments))

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for a process; gives its exit status and what it printed."""
        text, _ = process.communicate(timeout=_TOO_LONG)
        self.printed.append(text)
        return process.returncode, text

    def environment(self) -> dict[str, str]:
        """The environment of the commands: nothing of the shell's own settings."""
        others = {k: v for k, v in os.environ.items() if not k.startswith(("ETL_", "AWS_", "DAGSTER_", "PG"))}
        others.pop("PYTHONDONTWRITEBYTECODE", None)
        return others | {"ETL_HOME": str(self.folder / "home"), "ETL_HTTP_RETRY_WAIT": "0.01"} | dict(self.settings)
