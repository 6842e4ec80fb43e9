"""Which partitions a run has, according to its tags: one, all from one to another, or only some of those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_ONE = "dagster/partition"
_FIRST, _LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
#: How many partitions a run has if it skips some between its first and its last, which are all that Dagster's own tags
#: can name. Not which ones: tag values are indexed, and so many keys do not fit there.
_SOME = "etl/partitions"


@dataclass(frozen=True)
class RunPartitions:
    """All partitions from the first to the last, or only some of them (`some`: how many). Keys sort as text."""

    first: str
    last: str
    some: int | None = None

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> RunPartitions | None:
        """The partitions of a run with these tags; None if it has none."""
        first, last = (tags.get(tag) or tags.get(_ONE) for tag in (_FIRST, _LAST))
        if first is None or last is None:
            return None
        return cls(first, last, int(tags[_SOME]) if _SOME in tags else None)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a run that has these partitions."""
        return {_FIRST: self.first, _LAST: self.last} | ({_SOME: str(self.some)} if self.some else {})

    def may_have(self, key: str) -> bool:
        """Whether the run has a partition; if it has only some, whether it may."""
        return self.first <= key <= self.last

    def __str__(self) -> str:
        if self.first == self.last:
            return self.first
        return f"{self.first}...{self.last}" + (f" ({self.some} of them)" if self.some else "")
