"""The declaration of a dataset, and the register of every stage that is built for it."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import dagster as dg

from etl_assets.quality.audit import Bound
from etl_assets.sources import Source
from etl_assets.storage.hashes import sha256_of_lines
from etl_assets.storage.table import WHOLE, Table


@dataclass(frozen=True)
class Dataset:
    """Where a dataset comes from and who answers for it; all of it is shown in the UI with each of its assets."""

    name: str
    title: str
    publisher: str
    #: Address where the data are described; empty if they are not public.
    homepage: str
    licence: str
    citation: str
    cadence: str
    owner: str = "team:data"
    #: The days, months or years that its refined table is partitioned by (for a source read in batches: its raw
    #: tables, by the day of the batch); None for tables without partitions.
    partitions: dg.TimeWindowPartitionsDefinition | None = None
    #: Partitions in one run of a backfill.
    batch: int = 100
    #: How many rows of one partition may be quarantined before the partition is refused.
    bound: Bound = field(default_factory=Bound)
    #: What happens to columns that the last file did not have: kept and reported (evolve), refused with the whole file
    #: (freeze), or left out and reported (discard). A file without a required column is always refused.
    schema: Literal["evolve", "freeze", "discard"] = "evolve"
    #: A file that is smaller than the last good one by more than this share is refused, unless it says it is older.
    #: With 1, it may even have no record.
    max_shrink: float = 0.5
    #: How long nothing may be landed before the dataset counts as stale; None: it never does.
    stale_after: timedelta | None = None
    #: How old the newest day of the data itself may be: a source may answer and yet stand still.
    data_stale_after: timedelta | None = None
    #: When to land the whole file without asking whether it has changed (cron, UTC): for sources whose corrections
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
    """An upstream of a stage: its asset, its table (None: a landed file), and how its partitions map to the stage's.

    `by_partition`: a partition of the stage is made from the upstream's partition of the same key, not from all of it;
    where the upstream is landed in batches, from the batches of the day.
    """

    key: dg.AssetKey
    table: Table | None
    by_partition: bool
    columns: tuple[str, ...] | None = None
    #: For a source that is read in batches: which of its tables is read.
    source_table: str | None = None


@dataclass(frozen=True)
class Spec:
    """What the house knows about an asset: its dataset, its table or its source, and what it is made from."""

    key: dg.AssetKey
    dataset: Dataset
    table: Table | None
    source: Source | None = None
    inputs: Mapping[str, Input] = field(default_factory=dict)
    partitions: dg.TimeWindowPartitionsDefinition | None = None
    #: The version of the code that makes it; see the function of this name.
    code_version: str = ""
    #: The table of the records that it keeps out; None if it keeps out none.
    quarantine: Table | None = None

    @property
    def own_table(self) -> Table:
        """Its table; only a landing asset has none."""
        assert self.table is not None, f"{self.key.to_user_string()} has no table"
        return self.table

    @property
    def whole(self) -> bool:
        """Whether the asset is made in one piece, though its table may be cut into partitions."""
        return self.partitions is None

    @property
    def waits_for(self) -> set[dg.AssetKey]:
        """The assets that are made before it: its inputs, and the tables that its foreign keys refer to."""
        columns = self.table.columns if self.table else ()
        referred_to = {dg.AssetKey([c.references.stage, c.references.table]) for c in columns if c.references}
        return referred_to | {source.key for source in self.inputs.values()}

    def partition_of(self, key: str) -> str:
        """The asset's partition that a partition of its table, or of an input read by partition, belongs to.

        Mostly the two are the same. A batch belongs to its day, and so does each block of rows that came with it.
        """
        return key[: len("2025-01-15")] if self.in_batches else key

    @property
    def in_batches(self) -> bool:
        """Whether the asset holds the records of a source's batches, day by day."""
        return self.partitions is not None and any(source.source_table for source in self.inputs.values())

    def made_from(self, partitions: Collection[str], versions: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """The digest of what each partition is made from: the declaration, the code, and the versions of its inputs.

        `versions` gives, per input, the content hash of each of its partitions.
        """
        if not partitions:
            return {}
        lines: dict[str, list[str]] = {key: [] for key in partitions}
        for name, source in sorted(self.inputs.items()):
            asset, found = source.key.to_user_string(), versions[name]
            told = {key: f"{asset} {key} {found[key]}" for key in sorted(found)}
            if source.by_partition:
                for key, line in told.items():
                    if (own := self.partition_of(key)) in lines:
                        lines[own].append(line)
            else:  # one line for all: the input may have as many partitions as this asset
                together = sha256_of_lines(told.values())
                for own in lines.values():
                    own.append(together)
        return {key: self.digest(*own) for key, own in lines.items()}

    def digest(self, *inputs: str) -> str:
        """The digest of what something of the asset is made from: the declaration, the code, and `inputs`."""
        return sha256_of_lines([self.table.fingerprint if self.table else "", self.code_version, *inputs])

    def made_whole_from(self, versions: Mapping[str, Mapping[str, str]], *, has_unplaced: bool = False) -> str:
        """The digest of what the asset as a whole is made from.

        With unplaced records, that includes the end of the calendar: their day may come.
        """
        digest = self.made_from([WHOLE], versions)[WHOLE]
        if has_unplaced and self.dataset.partitions is not None:
            return sha256_of_lines([digest, max(numbered(self.dataset.partitions))])
        return digest


def code_version(of: Any) -> str:
    """The version of the file that defines a contract or a stage's function: it changes when the code does.

    So tables are made again after a check, a bound, a correction or a function has changed; where the result is the
    same, nothing is written. The files beside it that it imports from count as well, since it may use their functions.
    Comments and layout do not count, nor does the code that all datasets share. Empty if there is no such file.
    """
    try:
        return _version(of.__module__)[:12]
    except (OSError, TypeError, KeyError):
        return ""


def _version(module: str) -> str:
    room = module.rpartition(".")[0]
    code, imported = _read(inspect.getsource(sys.modules[module]), room)
    return sha256_of_lines([code, *(_version(name) for name in imported if name in sys.modules)])


@lru_cache
def _read(source: str, room: str) -> tuple[str, Sequence[str]]:
    """A module's code without comments and layout, and the modules of its room that it imports from."""
    tree = ast.parse(source)
    names = {
        f"{room}.{name.name}" if node.module == room else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    return ast.unparse(tree), sorted(name for name in names if room and name.rpartition(".")[0] == room)


def numbered(partitions: dg.TimeWindowPartitionsDefinition) -> Mapping[str, int]:
    """The keys of all days, months or years so far, numbered; cached, since Dagster would list them anew each time."""
    return _numbered(partitions, datetime.now(UTC).date())


@lru_cache
def _numbered(partitions: dg.TimeWindowPartitionsDefinition, _today: date) -> Mapping[str, int]:
    return {key: number for number, key in enumerate(partitions.get_partition_keys())}


#: Every asset that the stage decorators have made, in the order in which data flows.
SPECS: dict[dg.AssetKey, Spec] = {}


def spec_of_step(step: str | None) -> Spec | None:
    """The asset that a step makes; None for a step that makes none."""
    return next((spec for key, spec in SPECS.items() if key.to_python_identifier() == step), None) if step else None


def declare(
    dataset: Dataset,
    table: Table,
    made_by: Any,
    inputs: Mapping[str, Input],
    partitions: dg.TimeWindowPartitionsDefinition | None = None,
    quarantine: Table | None = None,
) -> Spec:
    """Register the asset of a table; `made_by` is the contract or function whose file holds its code."""
    key = dg.AssetKey([table.stage, table.name])
    return remember(
        Spec(
            key,
            dataset,
            table,
            inputs=inputs,
            partitions=partitions,
            code_version=code_version(made_by),
            quarantine=quarantine,
        )
    )


def remember(spec: Spec) -> Spec:
    """Register an asset; an asset key may be declared once."""
    if spec.key in SPECS:
        raise ValueError(f"The asset {spec.key.to_user_string()} is declared twice")
    SPECS[spec.key] = spec
    return spec
