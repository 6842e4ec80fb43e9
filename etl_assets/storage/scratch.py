"""Folders for files that are needed for as long as a step runs: below `ETL_HOME`, gone with the process that made them.

A process that is killed leaves its folders behind. Each is locked for as long as its process lives, so that whoever
makes the next one can delete those that nobody holds any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from etl_assets.settings import home


@contextmanager
def scratch_folder(prefix: str) -> Generator[Path]:
    """An empty folder, deleted at the end of the block, or by anybody's next call if this process is killed."""
    root = home() / "scratch"
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):  # so that nobody deletes a folder after it is made and before it is locked
        for other in root.iterdir():
            _delete_if_left(other)
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=root))
        held = os.open(folder, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _delete_if_left(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # its process has just deleted it
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
