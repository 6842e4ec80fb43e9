"""Ten of the moments of `./dev chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from etl_assets.local.postgres import Cluster
from etl_assets_tests.chaos.campaign import Campaign, moments
from etl_assets_tests.chaos.world import world


@pytest.mark.long
def test_a_run_killed_at_any_moment_loses_nothing_and_shows_nobody_half(cluster: Cluster, tmp_path: Path) -> None:
    """Whoever reads meanwhile sees each partition as it was or as it shall be, and the next run makes it whole."""
    with world(tmp_path, cluster) as put_to_the_test:
        campaign = Campaign(put_to_the_test)
        campaign.prepare()
        chosen = moments(seed=1)
        for _ in range(5):
            campaign.kill_at(next(chosen), next(chosen))  # the second run dies in its turn
    assert not campaign.faults
    assert campaign.killed >= 7  # after the first, there may be less to do than it takes to get to the second
    assert campaign.looks > campaign.rounds
