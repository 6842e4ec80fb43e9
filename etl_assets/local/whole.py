"""Small files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader finds either the old one or the new one; by default only its owner may read it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)  # the mode applies only to a file that is created
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    unfinished.replace(path)


def read_line(path: Path) -> str | None:
    """The one line that a file holds; None if there is no such file, or nothing in it."""
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None
