"""Some of the mutations of `./dev fuzz`: those that found something, and a few quick ones of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from etl_assets.local.postgres import Cluster
from etl_assets_tests.fuzz.campaign import campaign
from etl_assets_tests.fuzz.subjects import SUBJECTS

SEEDS = {
    "eventdata_baseline_csv": [11, 13],
    "eventdata_baseline_geojson": [17, 106, 138],
    "gho_countries": [0, 3],
    "retail_sales": [1],
    "retail_transactions": [25],
    "us_counties": [1, 2],
}


@pytest.mark.parametrize("name", SEEDS)
def test_whatever_a_source_sends(name: str, sample: Path, cluster: Cluster, tmp_path: Path) -> None:
    """It is published within the contract, quarantined with a reason, or refused by name; nothing good changes."""
    folder = tmp_path / name
    folder.mkdir()
    with campaign(SUBJECTS[name], sample, folder, cluster) as fuzzed:
        verdicts = [fuzzed.spoil(seed) for seed in SEEDS[name]]
    assert not [(verdict.seed, verdict.what, finding) for verdict in verdicts for finding in verdict.findings]
