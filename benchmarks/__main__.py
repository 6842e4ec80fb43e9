"""`./dev bench [NAME …] [--rows N …] [--rounds N] [--quick] [--json FILE]`"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import dagster as dg
from rich.console import Console

from benchmarks.ground import ground


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's module (its `run` measures), its sizes in rows, how long three rounds take, and its least size."""

    module: str
    rows: tuple[int, ...]
    quick: tuple[int, ...]
    takes: str
    at_least: int = 1

    def load(self) -> ModuleType:
        """Import the module; each needs packages that the others do not."""
        return importlib.import_module(f"benchmarks.{self.module}")


BENCHMARKS = {
    "load": Benchmark("load", (1_000_000,), (20_000,), "3 min"),
    "pipeline": Benchmark("pipeline", (100_000, 1_000_000), (1_000,), "9 min"),
    "replace-day": Benchmark("replace_day", (100_000, 5_000_000), (10_000, 100_000), "4 min", at_least=20),
    "oltp": Benchmark("oltp", (1_000_000, 10_000_000), (1_000,), "20 min"),
    "correction": Benchmark("correction", (300_000,), (500,), "5 min"),
    "operate": Benchmark("operate", (30_000,), (200,), "12 min"),
    "extract": Benchmark("extract", (50_000,), (2_000,), "2 min"),
}


def main(arguments: list[str]) -> int:
    """Run the benchmarks, print what they found, and write it down."""
    options = parse(arguments)
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    for name in [name for name in os.environ if name.startswith(("ETL_", "AWS_", "DAGSTER_"))]:
        del os.environ[name]  # a benchmark uses its own settings, not those of the shell
    console = Console(soft_wrap=True, highlight=False)
    announce(options, console)
    reports = {}
    started = time.monotonic()
    before = os.getloadavg()[0]
    with ground(console, options.rounds, quick=options.quick) as place:
        for name in options.names:
            console.print(f"\n[bold]{name}[/bold] …")
            report = BENCHMARKS[name].load().run(place, sizes(name, options), quick=options.quick)
            report.print(console)
            reports[name] = report.as_json()
            if options.json:  # after each, so that an interruption loses only one
                found = {"machine": machine(before), "rounds": options.rounds, "benchmarks": reports}
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"\n{time.monotonic() - started:.0f} s in all.")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; if it is wrong, say how and end the process."""
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure this project against its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--rows", nargs="+", type=int, metavar="N", help="other sizes than the default, of one NAME")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each case (default: 3)")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes: to see if it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to a file")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    options.names = options.names or list(BENCHMARKS)
    if min([options.rounds, *(options.rows or [])]) < 1:
        parser.error("--rows and --rounds must be at least 1")
    if options.rows:
        if len(options.names) != 1:
            parser.error("--rows needs the NAME of the one benchmark that it is for")
        name, benchmark = options.names[0], BENCHMARKS[options.names[0]]
        wanted = len(benchmark.rows)
        if len(options.rows) != wanted:
            parser.error(f"{name} takes {wanted} number{'s' if wanted > 1 else ''} of --rows")
        if min(options.rows) < benchmark.at_least:
            parser.error(f"{name} needs at least {benchmark.at_least} --rows")
        if options.rows != sorted(set(options.rows)):
            parser.error("--rows must be different sizes, the smallest first")
    return options


def sizes(name: str, options: argparse.Namespace) -> tuple[int, ...]:
    """The numbers of rows that a benchmark is run with."""
    benchmark = BENCHMARKS[name]
    return tuple(options.rows or (benchmark.quick if options.quick else benchmark.rows))


def announce(options: argparse.Namespace, console: Console) -> None:
    """Say what will be done, what it needs and how long it will take."""
    for name in options.names:
        rows = " and ".join(f"{n:,}" for n in sizes(name, options))
        takes = "some seconds" if options.quick else f"about {BENCHMARKS[name].takes} at the default sizes and rounds"
        console.print(f"[bold]{name}[/bold] with {rows} rows, {options.rounds} rounds: {takes}")
    console.print(
        "A PostgreSQL of their own is made in the temporary folder and taken away afterwards. That takes up to 8 GB of "
        "space there and as much memory; the less the machine does beside, the better."
    )


def machine(load_before: float) -> dict[str, object]:
    """What the figures were measured on."""
    root = Path(__file__).parents[1]
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cores": os.cpu_count(),
        "load_before": round(load_before, 1),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": commit or None,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # as Ctrl-C does: servers stop, too
    sys.exit(main(sys.argv[1:]))
