"""What `./dev run` says when it is done: what changed, what there is, and what somebody should look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from etl_assets.logs import plain
from etl_assets.stages.dataset import Spec
from etl_assets.stages.staleness import State
from etl_assets.storage.table import WHOLE

_LONGEST_WARNING = 300


@dataclass
class Outcome:
    """What was done for one asset."""

    partitions: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def report(
    console: Console, instance: dg.DagsterInstance, specs: Sequence[Spec], outcomes: Mapping[str, Outcome]
) -> None:
    """Print what a run of these assets, in order, has changed, what there is now per table, and what went wrong."""
    for spec in specs:
        _note_changes(console, instance, spec, outcomes[spec.key.to_user_string()])
    console.print(_tables(State.of(instance, specs), specs, outcomes))
    for name, outcome in outcomes.items():
        for warning in outcome.warnings:
            console.print(Text.assemble(("look at", "yellow"), f" {name}: {plain(warning, _LONGEST_WARNING)}"))
        for failure in outcome.failures:
            console.print(Text.assemble(("failed", "red"), f" {name}: {plain(failure)}"))


def _note_changes(console: Console, instance: dg.DagsterInstance, spec: Spec, outcome: Outcome) -> None:
    """Say how much of a whole-file source changed, and which files of a folder were not taken."""
    if spec.key.path[0] not in ("landing", "raw"):
        return
    event = instance.get_latest_materialization_event(spec.key)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    refused: Any = metadata["refused"].value if "refused" in metadata else {}
    for file, why in refused.items():
        console.print(Text(plain(f"{spec.dataset.name}: {file} was not taken. {why}")))
    if outcome.partitions and spec.table and spec.table.partitioning and "partitions_changed" in metadata:
        changed, same = (metadata[f"partitions_{w}"].value for w in ("changed", "unchanged"))
        console.print(f"{spec.dataset.name}: {changed} partitions changed, {same} unchanged")


def _tables(state: State, specs: Sequence[Spec], outcomes: Mapping[str, Outcome]) -> RichTable:
    """What there is, per table."""
    shown = RichTable(title=None, header_style="bold", box=None, pad_edge=False)
    for name, justify in (("table", "left"), ("rows", "right"), ("partitions", "right"), ("made", "right"),
                          ("quarantined", "right"), ("seconds", "right")):  # fmt: skip
        shown.add_column(name, justify=justify)
    # Two tables may share a quarantine: it is reported with the later one.
    keepers = {spec.quarantine.full_name: spec for spec in specs if spec.quarantine}
    for spec in specs:
        if spec.table is None:
            continue
        facts = state.facts(spec.table)
        cut = {k: f for k, f in facts.items() if not (spec.table.partitioning and k == WHOLE)}
        outcome = outcomes[spec.key.to_user_string()]
        kept_out = ""
        if spec.quarantine and keepers[spec.quarantine.full_name] is spec:
            kept_out = f"{sum(f.rows for f in state.facts(spec.quarantine).values()):,}"
        shown.add_row(
            spec.table.full_name,
            f"{sum(f.rows for f in cut.values()):,}",
            f"{len(cut):,}" if spec.table.partitioning else "",
            f"{outcome.partitions:,}" if outcome.partitions else "",
            kept_out,
            f"{outcome.seconds:.1f}" if outcome.seconds else "",
        )
    return shown
