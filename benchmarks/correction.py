"""`correction`: a corrected publication that changes 1 % of the days, beside a full load of the same file.

Both are what `./dev run protest_events` does: ask the sources, land what is new, make what is out of date, up to the
presentation tables. The file is published as a whole each time; nobody names the days that changed.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence

from benchmarks.ground import CORRECTED, PUBLISHED, Ground
from benchmarks.house import House, environment, instance_of
from benchmarks.measure import Ratio, Report, Run, interleave, timed
from etl_assets.local.source_server import serve

DAYS, QUICK_DAYS = 730, 3

FULL, CORRECTION = "full load", "corrected publication"


def run(ground: Ground, sizes: Sequence[int], *, quick: bool) -> Report:
    """Measure."""
    (rows,) = sizes
    days = QUICK_DAYS if quick else DAYS
    corrected = max(1, round(days / 100))
    report = Report("correction", f"{rows:,} events of {days} days, {corrected} of which a new publication corrects")
    data = ground.publications(rows, days, corrected, quick=quick)
    as_of = ground.folder / "as_of"
    as_of.write_text(PUBLISHED)
    home = ground.folder / "correction"
    with (
        ground.database() as url,
        ground.database() as storage,
        serve(data, as_of=as_of) as changing,
        serve(data, as_of=CORRECTED) as newest,
        instance_of(home / "dagster", storage) as instance,
    ):
        loaded = House(instance, environment(url, home / "lake", changing))
        loaded.run()
        turns = itertools.cycle((CORRECTED, PUBLISHED))  # taking corrections back is as much work as making them

        def correction() -> Run:
            as_of.write_text(next(turns))
            run = timed(loaded.run)
            made = loaded.outcomes["refined/protest_events"].partitions
            assert made == corrected, f"{made} days were made instead of {corrected}"
            return run

        def full() -> Run:
            with (
                ground.database() as other,
                ground.database() as other_storage,
                instance_of(home / "full" / "dagster", other_storage) as fresh,
            ):
                run = timed(House(fresh, environment(other, home / "full", newest)).run)
            shutil.rmtree(home / "full")
            return run

        report.runs = interleave({FULL: full, CORRECTION: correction}, ground.rounds, ground.console)
    share = report.over(CORRECTION, FULL)
    report.ratios.append(Ratio(f"cost of the {CORRECTION} over the cost of the {FULL}", share, at_most=0.2))
    return report
