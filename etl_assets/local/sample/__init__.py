"""The project's own sample of its sources, generated: same columns and same kinds of dirt as the real ones.

Here: the folder it is written into, which files it has, and when it is written anew. Every name, text and border is
made up; nothing is taken from a publisher's file. The same code always writes the same data: no clock, no network,
fixed seeds. Not here: what a source's files say, for which each has a module (counties.py, events.py, gho.py,
treasury.py, census.py, totesys.py, retail.py; what they share is in files.py); serving the sample
(local/source_server.py); and what the project makes of the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import tempfile
from pathlib import Path

from etl_assets.local.sample.census import poverty_files
from etl_assets.local.sample.counties import county_files, make_counties
from etl_assets.local.sample.events import CHANGED_DAYS, COLUMNS, COLUMNS_SINCE_APRIL_2025, event_files
from etl_assets.local.sample.gho import RESTATED_VALUES, health_files
from etl_assets.local.sample.retail import retail_files
from etl_assets.local.sample.totesys import totesys_files
from etl_assets.local.sample.treasury import CORRECTED_ADVANCES, advance_files

__all__ = [
    "CHANGED_DAYS",
    "COLUMNS",
    "COLUMNS_SINCE_APRIL_2025",
    "CORRECTED_ADVANCES",
    "RESTATED_VALUES",
    "write_sample",
]


def write_sample(folder: Path) -> None:
    """Write the sample into `folder`, unless it is there already.

    It is written beside the folder and moved into place, so that a reader sees a whole sample or none. A
    sample written by another version of this package is replaced; any other folder is left alone.
    """
    stamp = _version()
    if _stamp(folder) == stamp:
        return
    if folder.exists() and any(folder.iterdir()) and _stamp(folder) is None:
        raise FileExistsError(f"{folder} holds other files; move them away, the sample needs this folder for itself")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        fresh, stale = Path(temporary, "fresh"), Path(temporary, "stale")
        for name, content in _sample_files().items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        try:
            if folder.exists():
                folder.rename(stale)
            fresh.rename(folder)
        except OSError:
            if _stamp(folder) != stamp:  # else another process has just written the same
                raise


def _version() -> str:
    """A digest that changes with the code that generates the sample."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


def _stamp(folder: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return (folder / ".stamp").read_text()
    return None


def _sample_files() -> dict[str, bytes]:
    rng = random.Random(20250305)  # noqa: S311 - repeatable is what is wanted
    counties = make_counties(rng)
    return {
        **county_files(counties),
        **event_files(rng, counties),
        **health_files(),
        **advance_files(),
        **poverty_files(counties),
        **totesys_files(),
        **retail_files(),
        ".stamp": _version().encode(),
    }
