"""A process that does what `./dev run` does, and kills itself with SIGKILL where it is told to.

As a program it reads orders, one JSON object a line, and answers each when it is done: it forks a process for each,
since starting Python and importing Dagster takes longer than the run. An order names a point (`POINTS`) and which of
its calls is the last thing that the process does; an order without a point is a run that nobody disturbs, and its
answer says how often each point was passed.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console

from etl_assets.local.run import Driver
from etl_assets.storage.dagster_storage import at_a_terminal

#: Where a run may die: what it is doing there, and the function that does it.
POINTS = {
    "landing: the source is asked": "etl_assets.sources.files:WebFile.fetch",
    "landing: a file is stored": "etl_assets.storage.landing:Landing.land",
    "audit": "etl_assets.stages.table_step:audit",
    "ids are given": "etl_assets.storage.identities:Identities.allocate",
    "lake: an object is encoded": "etl_assets.storage.lake:encode",
    "lake: an object is written": "etl_assets.storage.lake:Lake.put",
    "warehouse: COPY is under way": "etl_assets.storage.copy:_encode",
    "warehouse: partitions are replaced": "etl_assets.storage.transaction:Transaction.replace",
    "bookkeeping in the lake": "etl_assets.storage.publish:Book.write",
    "before the commit": "etl_assets.storage.transaction:Transaction.record",
    "after the commit": "etl_assets.storage.publish:Publisher.publish",
    "Dagster is told": "dagster:DagsterInstance.handle_new_event",
}


def _watch(point: str, passed: Callable[[str], None]) -> None:
    """Let every call of a point be told before it begins and after it ends; of a generator, every piece."""
    module, _, path = POINTS[point].partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for step in classes:
        owner = getattr(owner, step)
    function = getattr(owner, name)

    @functools.wraps(function)
    def watched(*given: Any, **named: Any) -> Any:
        passed(point)
        result = function(*given, **named)
        if isinstance(result, Iterator):
            return _pieces(result)
        passed(point)
        return result

    def _pieces(pieces: Iterator[Any]) -> Iterator[Any]:
        for piece in pieces:
            yield piece
            passed(point)

    setattr(owner, name, watched)


def _run(order: dict[str, Any], answer: int) -> None:
    """Do the run, in a process of its own; it may not come back."""
    from etl_assets.definitions import defs

    counted: Counter[str] = Counter()

    def passed(point: str) -> None:
        counted[point] += 1
        if point == order.get("point") and counted[point] == order["call"]:
            os.kill(os.getpid(), signal.SIGKILL)

    for point in POINTS:
        _watch(point, passed)
    started = time.monotonic()
    with at_a_terminal(), dg.DagsterInstance.get() as instance:
        driver = Driver(defs, instance, Console(file=io.StringIO()), order["datasets"])
        done = driver.run()
    failures = [f"{name}: {why}" for name, outcome in driver.outcomes.items() for why in outcome.failures]
    told = {"done": done, "failures": failures, "passed": counted, "seconds": time.monotonic() - started}
    os.write(answer, json.dumps(told).encode())


def main() -> None:
    """Answer orders until there are no more."""
    from etl_assets.definitions import defs

    defs.resolve_implicit_global_asset_job_def()  # once, for all the processes that are forked
    for line in sys.stdin:
        order = json.loads(line)
        readable, writable = os.pipe()
        child = os.fork()
        if not child:
            os.close(readable)
            try:
                _run(order, writable)
            except BaseException:  # noqa: BLE001, a forked process must not go on as its parent
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writable)
        # Told at once, so that whoever wants to can kill it at a moment of his own.
        print(json.dumps({"pid": child}), flush=True)
        with os.fdopen(readable, "rb") as pipe:
            told = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, **(json.loads(told) if told else {})}), flush=True)


if __name__ == "__main__":
    Path(os.environ["DAGSTER_HOME"]).mkdir(parents=True, exist_ok=True)
    main()
