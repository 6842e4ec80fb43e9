"""Tables that are cut into blocks of keys and made a few blocks at a time, only those that are out of date.

Here: the step that makes all of them. Not here: what a block holds (`batches`, `history`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import dagster as dg

from etl_assets.stages.dataset import SPECS, Input, Spec
from etl_assets.stages.profile import preview
from etl_assets.stages.staleness import State
from etl_assets.storage.configured import publisher
from etl_assets.storage.publish import Publisher
from etl_assets.storage.table import WHOLE, Facts, Publication, Table

#: Blocks that are made at once: this takes the memory of half a million rows, however large the table.
_AT_ONCE = 5


@dataclass
class BlockStep:
    """One run of a step that makes such a table: what was there before, and what has been published since.

    The stage compares what each block was `made_from` with the `digest` of what it would be made from now, gives those
    that differ to `hold`, a few at a time, and ends with `finish`.
    """

    context: dg.AssetExecutionContext
    spec: Spec
    #: Number of rows of each partition that the step has published, and how many of these partitions changed.
    rows: dict[str, int] = field(default_factory=dict)
    changed: int = 0
    #: What is published next, by table.
    held: dict[str, Publication] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        """The table that is made."""
        return self.spec.own_table

    @cached_property
    def publisher(self) -> Publisher:
        """The publisher that the step uses."""
        return publisher()

    @cached_property
    def state(self) -> State:
        """What was published when the step began."""
        return State(self.context.instance)

    @cached_property
    def versions(self) -> dict[str, dict[str, str]]:
        """The content hash of every partition of every input."""
        return {name: self.state.versions(source) or {} for name, source in self.spec.inputs.items()}

    @cached_property
    def known(self) -> dict[str, Facts]:
        """The bookkeeping of every partition that is in the warehouse and in the lake."""
        there = self.publisher.lake.partitions(self.table)
        return {key: facts for key, facts in self.state.facts(self.table).items() if key in there}

    def made_from(self, partition: str) -> str | None:
        """The digest of what a partition was made from; None if it has to be made in any case."""
        return self.known[partition].made_from if partition in self.known else None

    def digest(self, *parts: str) -> str:
        """The digest of what a partition is made from, see `Spec.digest`."""
        return self.spec.digest(*parts)

    def hold(self, publications: Sequence[Publication]) -> None:
        """Hold these partitions, and publish those held before.

        The last are left to `finish`, which publishes them in one transaction with the record of the whole table.
        """
        self._publish_held()
        self.held.update({publication.table.full_name: publication for publication in publications})

    def _publish_held(self) -> None:
        if self.held:
            done = self.publisher.publish(list(self.held.values()), self.context.run.run_id)[self.table.full_name]
            self.rows.update({part.key: part.rows for part in done})
            self.changed += sum(part.changed for part in done)
            self.held.clear()

    def finish(
        self,
        *checks: dg.AssetCheckResult,
        refused: Mapping[str, str] = MappingProxyType({}),
        failure_cases: dg.TableMetadataValue | None = None,
        **metadata: Any,
    ) -> Iterator[Any]:
        """Publish what is held, and end the step: with the table as a whole on record, if it is made as one.

        If blocks were refused, the step fails instead, though what is held is published. `refused` says why, by block,
        and `failure_cases` shows values that are wrong in the first of them.
        """
        yield from checks
        if refused:
            self._publish_held()
            key, why = next(iter(refused.items()))
            raise dg.Failure(
                f"{self.table.full_name}: {len(refused)} blocks were refused, the others are published. "
                f"Keys from {int(key)}: {why}",
                metadata={"failure_cases": failure_cases},
                allow_retries=False,
            )
        if self.spec.whole:
            last = self.held.get(self.table.full_name) or Publication(self.table, [])
            self.held[self.table.full_name] = replace(last, whole=self.spec.made_whole_from(self.versions))
        self._publish_held()
        rows = {key: facts.rows for key, facts in self.known.items() if key != WHOLE} | self.rows
        first = self.publisher.lake.read(self.table, [min(rows)] if rows else []).frame
        yield dg.MaterializeResult(
            metadata={
                **({"dagster/row_count": sum(rows.values())} if self.spec.whole else {}),
                "blocks_made": len(self.rows),
                "blocks_changed": self.changed,
                "blocks_unchanged": len(rows) - self.changed,
                "preview": preview(first.select(c for c in first.columns if not c.startswith("_"))),
                **metadata,
            }
        )


def whole_input(asset: dg.AssetsDefinition) -> Input:
    """An upstream for which the step itself finds out what is new."""
    return Input(asset.key, SPECS[asset.key].table, by_partition=False)


def in_groups(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Groups of as many blocks as are made at once."""
    for start in range(0, len(keys), _AT_ONCE):
        yield keys[start : start + _AT_ONCE]


def block_of(partition: str) -> str:
    """The block in the key of a raw partition: `2024-11-15_000000200000`."""
    return partition[11:]
