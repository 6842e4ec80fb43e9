"""`./dev fuzz`: a thousand mutations of each source's answers, and what came of them."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from etl_assets.local.sample import write_sample
from etl_assets.logs import plain
from etl_assets_tests.fuzz.campaign import Verdict
from etl_assets_tests.fuzz.pieces import Piece, fuzz
from etl_assets_tests.fuzz.subjects import SUBJECTS

#: Mutations on one house; then another is built, so that what a run costs does not grow with what has been.
_AT_ONCE = 125
_OUTCOMES = ("published", "unchanged", "quarantined", "refused")


def main() -> int:
    """Do it; 1 if there is anything that should not be."""
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__)
    parser.add_argument(
        "source", nargs="*", choices=[[], *SUBJECTS], metavar="SOURCE", help=f"of {', '.join(SUBJECTS)}"
    )
    parser.add_argument("--mutations", type=int, default=1000, help="of each source (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first (default: 0)")
    parser.add_argument("--seed", type=int, help="only the mutation of this number")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at work at once (default: one a core)")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.mutations) if given.seed is None else [given.seed]
    names = given.source or list(SUBJECTS)
    console, started, verdicts = Console(), time.monotonic(), {name: list[Verdict]() for name in names}
    with tempfile.TemporaryDirectory(prefix="etl-fuzz-") as folder:
        write_sample(Path(folder) / "sample")
        pieces = [
            Piece(name, seeds[at : at + _AT_ONCE], Path(folder))
            for at in range(0, len(seeds), _AT_ONCE)
            for name in names
        ]
        with _progress(console) as progress:
            task = progress.add_task("mutations", total=len(seeds) * len(names))
            for piece, done in _done(pieces, given.processes):
                verdicts[piece.source] += done
                progress.advance(task, len(piece.seeds))
                for verdict in done:
                    _tell(console, piece.source, verdict, given.seed is not None)
    console.print(_table(verdicts))
    findings = sum(len(verdict.findings) for found in verdicts.values() for verdict in found)
    console.print(f"{findings} findings, {time.monotonic() - started:.0f} s")
    return 1 if findings else 0


def _done(pieces: Sequence[Piece], processes: int) -> Iterator[tuple[Piece, list[Verdict]]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(pieces)), mp_context=context) as pool:
        under_way = {pool.submit(fuzz, piece): piece for piece in pieces}
        for done in as_completed(under_way):
            yield under_way[done], done.result()


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _tell(console: Console, source: str, verdict: Verdict, in_full: bool) -> None:
    if in_full:
        console.print(Text(f"{source} {verdict.seed}: {plain(verdict.what, 500)}: {verdict.outcome}"))
    for finding in verdict.findings:
        console.print(Text(f"FINDING ./dev fuzz {source} --seed {verdict.seed}: {plain(verdict.what, 200)}", "red"))
        console.print(Text(plain(finding, None if in_full else 1500)))


def _table(verdicts: dict[str, list[Verdict]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("source", "mutations", *_OUTCOMES, "findings"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for name, found in verdicts.items():
        counts = Counter(verdict.outcome for verdict in found)
        findings = sum(bool(verdict.findings) for verdict in found)
        table.add_row(name, *(f"{n:,}" for n in (len(found), *(counts[outcome] for outcome in _OUTCOMES), findings)))
    return table


if __name__ == "__main__":
    sys.exit(main())
