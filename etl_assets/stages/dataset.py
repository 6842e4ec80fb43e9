"""The declaration of a dataset, and what is remembered of every stage that is built for it."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import dagster as dg

from etl_assets.quality.audit import Bound
from etl_assets.sources import Source
from etl_assets.storage.table import Table


@dataclass(frozen=True)
class Dataset:
    """Where a dataset comes from and who answers for it; all of it is shown in the UI with each of its assets."""

    name: str
    title: str
    publisher: str
    #: Address where the data are described; empty for what is not public.
    homepage: str
    licence: str
    citation: str
    cadence: str
    owner: str = "team:data"
    #: The days, months or years that its refined table is partitioned by (of a source that is read in batches: its raw
    #: tables, by the day of the batch); None for tables without partitions.
    partitions: dg.TimeWindowPartitionsDefinition | None = None
    #: Partitions in one run of a backfill.
    batch: int = 100
    #: How many rows of one partition may be quarantined before the partition is refused.
    bound: Bound = field(default_factory=Bound)
    #: What becomes of columns that the last file did not have: kept and reported (evolve), refused with the whole file
    #: (freeze), or left out and reported (discard). A required column that is missing is always refused.
    schema: Literal["evolve", "freeze", "discard"] = "evolve"
    #: A file that is smaller than the last good one by more than this share is refused.
    max_shrink: float = 0.5
    #: How long ago a new file may last have been landed before the dataset counts as stale; None: for ever.
    stale_after: timedelta | None = None
    #: How far the newest day of the data itself may lie back; the sources may answer and yet stand still.
    data_stale_after: timedelta | None = None
    #: When to land the whole file without asking whether it is another one (cron, UTC): for sources whose corrections
    #: cannot be seen without reading them.
    anew: str | None = None

    def metadata(self) -> dict[str, Any]:
        """The declaration as metadata of an asset."""
        return {
            **({"source": dg.MetadataValue.url(self.homepage)} if self.homepage else {}),
            "publisher": self.publisher,
            "licence": self.licence,
            "citation": self.citation,
            "cadence": self.cadence,
        }


@dataclass(frozen=True)
class Input:
    """An upstream of a stage: its asset, its table (None: a landed file), and how its partitions meet the stage's.

    `by_partition`: a partition of the stage is made from the upstream's partition of the same key, not from all of it;
    where the upstream is landed in batches, from the batches of the day.
    """

    key: dg.AssetKey
    table: Table | None
    by_partition: bool
    columns: tuple[str, ...] | None = None
    #: Of a source that is read in batches: the one of its tables that is read.
    member: str | None = None


@dataclass(frozen=True)
class Spec:
    """What the house knows of an asset: its dataset, its table or its source, and what it is made from."""

    key: dg.AssetKey
    dataset: Dataset
    table: Table | None
    source: Source | None = None
    inputs: Mapping[str, Input] = field(default_factory=dict)
    partitions: dg.TimeWindowPartitionsDefinition | None = None
    #: Says by what code it is made; see the function of this name.
    code_version: str = ""

    @property
    def whole(self) -> bool:
        """Whether the asset is made in one piece, though its table may be cut into partitions."""
        return self.partitions is None

    @property
    def waits_for(self) -> set[dg.AssetKey]:
        """What is made before: what it is made from, and the tables that its foreign keys are of."""
        columns = self.table.columns if self.table else ()
        referred_to = {dg.AssetKey([c.references.stage, c.references.table]) for c in columns if c.references}
        return referred_to | {source.key for source in self.inputs.values()}

    def partition_of(self, key: str) -> str:
        """The asset's partition that a partition of its table, or of what it is made from by partition, belongs to.

        Mostly they are one. A batch belongs to its day, and so does each block of rows that came with it.
        """
        return key[: len("2025-01-15")] if self.in_batches else key

    @property
    def in_batches(self) -> bool:
        """Whether the asset has what came with the batches of a source, day by day."""
        return self.partitions is not None and any(source.member for source in self.inputs.values())

    def _of(self, partition: str, versions: Mapping[str, str]) -> Mapping[str, str]:
        if self.in_batches:
            return {key: version for key, version in versions.items() if self.partition_of(key) == partition}
        return {partition: versions[partition]} if partition in versions else {}

    def made_from(self, partition: str, versions: Mapping[str, Mapping[str, str]]) -> str:
        """The digest of what a partition is made from: the declaration, the code, and the versions of its inputs.

        `versions` gives, per input, the content hash of each of its partitions.
        """
        lines = [self.table.fingerprint if self.table else "", self.code_version]
        for name, source in sorted(self.inputs.items()):
            found = versions[name]
            if source.by_partition and not self.whole:
                found = self._of(partition, found)
            lines.extend(f"{source.key.to_user_string()} {key} {found[key]}" for key in sorted(found))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def code_version(of: Any) -> str:
    """The version of the file that a contract or a stage's function stands in: another if its code is another.

    So what is published is made again after a check, a bound, a correction or a function has changed; where that comes
    to the same, nothing is written. Comments and layout do not count, nor does the code that datasets share. Empty for
    what stands in no file.
    """
    module = sys.modules.get(of.__module__)
    try:
        return _digest(inspect.getsource(module)) if module else ""
    except (OSError, TypeError):
        return ""


@lru_cache
def _digest(source: str) -> str:
    return hashlib.sha256(ast.unparse(ast.parse(source)).encode()).hexdigest()[:12]


def numbered(partitions: dg.TimeWindowPartitionsDefinition) -> Mapping[str, int]:
    """The keys of all days, months or years that there are, each with its number; Dagster lists them anew each time."""
    return _numbered(partitions, datetime.now(UTC).date())


@lru_cache
def _numbered(partitions: dg.TimeWindowPartitionsDefinition, _today: date) -> Mapping[str, int]:
    return {key: number for number, key in enumerate(partitions.get_partition_keys())}


#: Every asset that the stage decorators have made, in the order in which data flows.
SPECS: dict[dg.AssetKey, Spec] = {}


def remember(spec: Spec) -> Spec:
    """Register an asset; an asset key may be declared once."""
    if spec.key in SPECS:
        raise ValueError(f"The asset {spec.key.to_user_string()} is declared twice")
    SPECS[spec.key] = spec
    return spec
