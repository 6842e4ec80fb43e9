"""How things are measured: interleaved runs, medians, ratios, and the peak memory of a process of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path


class Stopwatch:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self):
        self._started = time.monotonic()

    def __exit__(self, *a):
        import resource

        self._path.write_text(
            json.dumps(
                {
                    "s": time.monotonic() - self._started,
                    "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                }
            )
        )
