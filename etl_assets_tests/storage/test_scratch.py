"""Folders of steps: gone with the step, and with the next one where a process was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from etl_assets.settings import home
from etl_assets.storage.scratch import scratch_folder

KILLED = """
import os, signal
from etl_assets.storage.scratch import scratch_folder
with scratch_folder("fetch") as folder:
    (folder / "part.csv").write_text("half")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_and_what_another_works_in_stays() -> None:
    with scratch_folder("fetch") as mine:
        killed = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, check=False)
        left = Path(killed.stdout.strip())
        assert (left / "part.csv").exists()
        assert left.parent == mine.parent == home() / "scratch"
        with scratch_folder("landed") as other:
            assert sorted(mine.parent.iterdir()) == sorted([mine, other])
    assert list((home() / "scratch").iterdir()) == []
