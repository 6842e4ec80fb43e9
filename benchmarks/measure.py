"""How things are measured: interleaved runs, medians of them, and medians of the ratios within each round.

Here: timing, and what a report looks like as a table and as JSON. Not here: what is measured.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Run:
    """One measured run; one in its own process also has a peak memory. `parts` are the seconds of its parts."""

    seconds: float
    megabytes: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


Case = Callable[[], Run]


@dataclass(frozen=True)
class Ratio:
    """A ratio that was measured, and the target for it."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def wanted(self) -> str:
        """The target, for a person; empty if there is none."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


@dataclass
class Report:
    """What a benchmark found: the ratios, and the runs that they come from."""

    name: str
    title: str
    ratios: list[Ratio] = field(default_factory=list)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def seconds(self, case: str) -> float:
        """The median time of a case."""
        return statistics.median(run.seconds for run in self.runs[case])

    def megabytes(self, case: str) -> float | None:
        """The median peak memory of a case, where it was measured."""
        measured = [run.megabytes for run in self.runs[case] if run.megabytes is not None]
        return statistics.median(measured) if measured else None

    def over(self, case: str, other: str) -> float:
        """The time of a case over that of another: the median over rounds, in each of which both had the same noise."""
        rounds = zip(self.runs[case], self.runs[other], strict=True)
        return statistics.median(one.seconds / two.seconds for one, two in rounds)

    def parts(self, case: str) -> dict[str, float]:
        """The median time of each part of a case."""
        runs = self.runs[case]
        return {name: statistics.median(run.parts[name] for run in runs) for name in runs[0].parts}

    def as_json(self) -> dict[str, Any]:
        """The report for a machine: seconds and megabytes are medians, `runs` has every run."""
        return {
            "title": self.title,
            "ratios": {
                r.name: {"value": round(r.value, 3), "wanted": r.wanted or None, "met": r.met} for r in self.ratios
            },
            "cases": {
                case: {
                    "seconds": round(self.seconds(case), 4),
                    "megabytes": self.megabytes(case),
                    "parts": {name: round(value, 4) for name, value in self.parts(case).items()},
                    "runs": [round(run.seconds, 4) for run in runs],
                }
                for case, runs in self.runs.items()
            },
            "notes": self.notes,
        }

    def print(self, console: Console) -> None:
        """The report for a person."""
        console.print(f"\n[bold]{self.name}[/bold]: {self.title}")
        ratios = Table("ratio", box=None, header_style="bold", pad_edge=False)
        ratios.add_column("value", justify="right")
        ratios.add_column("wanted")
        for ratio in self.ratios:
            colour = {True: "green", False: "red", None: "default"}[ratio.met]
            verdict = {True: " ✓", False: " ✗", None: ""}[ratio.met]
            ratios.add_row(ratio.name, f"[{colour}]{ratio.value:.2f}[/{colour}]", f"{ratio.wanted}{verdict}")
        console.print(ratios)
        cases = Table("case", box=None, header_style="bold", pad_edge=False)
        for heading in ("median s", "fastest", "slowest", "runs", "peak MB"):
            cases.add_column(heading, justify="right")
        for case, runs in self.runs.items():
            times, memory = sorted(run.seconds for run in runs), self.megabytes(case)
            shown = [f"{value:.3f}" for value in (self.seconds(case), times[0], times[-1])]
            cases.add_row(case, *shown, str(len(runs)), "" if memory is None else f"{memory:,.0f}")
            for name, seconds in self.parts(case).items():
                cases.add_row(f"  [dim]{name}[/dim]", f"[dim]{seconds:.3f}[/dim]")
        console.print(cases)
        for note in self.notes:
            console.print(f"- {note}", highlight=False)


def interleave(cases: Mapping[str, Case], rounds: int, console: Console) -> dict[str, list[Run]]:
    """Run every case once a round, so that the machine's other work affects all of them alike."""
    runs: dict[str, list[Run]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in cases.items():
            runs[name].append(case())
            console.print(f"  round {number + 1}/{rounds}  {runs[name][-1].seconds:8.3f} s  {name}", style="dim")
    return runs


def timed(action: Callable[[], object]) -> Run:
    """Run something and take its time."""
    started = time.perf_counter()
    action()
    return Run(time.perf_counter() - started)


def peak_megabytes() -> float:
    """The peak memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


class Stopwatch:
    """Takes the time of a block and of its parts, and writes them with the peak memory to a file, as a `Run`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, float] = {}

    def __enter__(self) -> Stopwatch:
        self._started = self._since = time.perf_counter()
        return self

    def part(self, name: str) -> None:
        """Record the time since the last part, or since the beginning, under a name."""
        now = time.perf_counter()
        self._parts[name] = now - self._since
        self._since = now

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            seconds = time.perf_counter() - self._started
            run = {"seconds": seconds, "megabytes": peak_megabytes(), "parts": self._parts}
            self._path.write_text(json.dumps(run))


def read_run(path: Path) -> Run:
    """The run that a stopwatch has written."""
    return Run(**json.loads(path.read_text()))
