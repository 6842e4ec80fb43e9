"""Some mutations of a source in a process of its own: a process that is spawned does not know what `__main__` holds."""

from __future__ import annotations

import logging
import os
import traceback
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etl_assets.local.postgres import Cluster
from etl_assets_tests.fuzz.campaign import Campaign, Verdict, campaign
from etl_assets_tests.fuzz.subjects import SUBJECTS


@dataclass(frozen=True)
class Piece:
    """Some mutations of a source, for one process; `folder` has the sample."""

    source: str
    seeds: Sequence[int]
    folder: Path


def fuzz(piece: Piece) -> list[Verdict]:
    """The verdicts on some mutations, on a server of databases of this process."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", RuntimeWarning)  # shapely's, of numbers that no coordinate can be
    for name in [name for name in os.environ if name.startswith(("ETL_", "AWS_", "DAGSTER_"))]:
        del os.environ[name]
    folder = piece.folder / f"{piece.source}_{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    cluster = Cluster(folder / "postgres", fast=True)
    cluster.start()
    try:
        with campaign(SUBJECTS[piece.source], piece.folder / "sample", folder, cluster) as fuzzed:
            return [_verdict(fuzzed, seed) for seed in piece.seeds]
    finally:
        cluster.stop(immediate=True)


def _verdict(fuzzed: Campaign, seed: int) -> Verdict:
    """What came of a mutation; that it could not be judged is a finding, and takes nothing of the others away."""
    try:
        return fuzzed.spoil(seed)
    except Exception:  # noqa: BLE001 - it is told in full
        return Verdict(seed, "", "not judged", (traceback.format_exc(),))
