"""Surrogate ids: one number per natural key, given once and never again.

An allocation is an object in the lake, `identities/<name>/<number>.parquet`, that is only ever created, never
changed; the next allocation takes the next number. Two runs that allocate at once try to create the same object, one
of them fails, reads what the other gave, and tries again: no lock, no database, and a run killed at any moment leaves
either the whole allocation or none of it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import polars as pl

from etl_assets.storage.lake import Lake, LakeError


@dataclass(frozen=True)
class Identities:
    """The ids given under one name."""

    lake: Lake
    name: str

    def allocate(self, keys: pl.Series, floor: int = 0) -> pl.Series:
        """The id of every key (64-bit integers, in the order given); new keys get the numbers after the greatest.

        New ids follow the order in which the keys are given, so that the same keys in the same order always get the
        same ids. `floor` is the greatest id that was in use before the first allocation. Raises LakeError if one of
        the allocations is gone.
        """
        while True:
            known, number = self._read()
            wanted = pl.DataFrame(
                {"key": keys.reinterpret(signed=True) if keys.dtype == pl.UInt64 else keys.cast(pl.Int64)}
            )
            new = wanted.unique(maintain_order=True).join(known, on="key", how="anti", maintain_order="left")
            if new.height:
                start = max(known.select(pl.col("id").max()).item() or 0, floor) + 1
                new = new.with_columns(pl.int_range(start, start + new.height, dtype=pl.Int64).alias("id"))
                sink = io.BytesIO()
                new.write_parquet(sink, compression="zstd")
                if not self.lake.put(self._path(number + 1), sink.getvalue(), create=True):
                    continue  # another run was faster: its ids count
                known = pl.concat([known, new])
            return wanted.join(known, on="key", how="left", maintain_order="left")["id"]

    @property
    def _prefix(self) -> str:
        return f"identities/{self.name}/"

    def _read(self) -> tuple[pl.DataFrame, int]:
        paths = [self._path(number) for number in range(1, len(self.lake.list(self._prefix)) + 1)]
        frames = [pl.DataFrame(schema={"key": pl.Int64, "id": pl.Int64})]
        for path, data in zip(paths, self.lake.get_all(paths), strict=True):
            if data is None:
                raise LakeError(
                    f"{self.lake.address(path)} is missing, although later ones exist: it holds ids that are in use "
                    "and must not be assigned again. Restore it from a copy of the lake."
                )
            frames.append(pl.read_parquet(io.BytesIO(data)))
        return pl.concat(frames), len(paths)

    def _path(self, number: int) -> str:
        return f"{self._prefix}{number:08d}.parquet"
