"""Ten of the moments of `./dev chaos`."""

from __future__ import annotations

from pathlib import Path

from etl_assets.local.postgres import Cluster
from etl_assets_tests.chaos.campaign import Campaign, moments
from etl_assets_tests.chaos.world import world


def test_a_run_killed_at_any_moment_loses_nothing_and_shows_nobody_half(cluster: Cluster, tmp_path: Path) -> None:
    """Whoever reads meanwhile sees each partition as it was or as it shall be, and the next run makes it whole."""
    with world(tmp_path, cluster) as put_to_the_test:
        campaign = Campaign(put_to_the_test)
        campaign.prepare()
        chosen = moments(10, seed=1)
        for first, second in zip(chosen[::2], chosen[1::2], strict=True):  # the second run dies in its turn
            campaign.kill_at(first, second)
    assert not campaign.faults
    assert campaign.killed >= 7  # after the first, there may be less to do than it takes to get to the second
    assert campaign.looks > campaign.rounds
