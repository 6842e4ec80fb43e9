"""Which partitions a run has, as its tags say: one, all from one to another, or only some of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_ONE = "dagster/partition"
_FIRST, _LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
#: Dagster knows no gaps, and shows such a run as one of the whole range.
_SOME = "etl/partitions"


@dataclass(frozen=True)
class RunPartitions:
    """The partitions from the first to the last; if `some` are named, only those. Keys sort as they are written."""

    first: str
    last: str
    some: tuple[str, ...] = ()

    @classmethod
    def told(cls, tags: Mapping[str, str]) -> RunPartitions | None:
        """Those of a run with these tags; None if it has none."""
        first, last = (tags.get(tag) or tags.get(_ONE) for tag in (_FIRST, _LAST))
        if first is None or last is None:
            return None
        return cls(first, last, tuple(tags.get(_SOME, "").split()))

    @classmethod
    def listed(cls, keys: Sequence[str], *, gaps: bool) -> RunPartitions:
        """These, in their order; `gaps`: there are others between them."""
        return cls(keys[0], keys[-1], tuple(keys) if gaps else ())

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a run that has these partitions."""
        return {_FIRST: self.first, _LAST: self.last} | ({_SOME: " ".join(self.some)} if self.some else {})

    def __contains__(self, key: str) -> bool:
        return key in self.some if self.some else self.first <= key <= self.last

    def __str__(self) -> str:
        if self.first == self.last:
            return self.first
        return f"{self.first}...{self.last}" + (f" ({len(self.some)} of them)" if self.some else "")
