"""Runs whose process was killed."""

from __future__ import annotations

import dagster as dg
import pytest

from etl_assets.definitions import defs
from etl_assets.local.dead_runs import bury_those_of_commands, is_alive, this_process
from etl_assets_tests.house import ephemeral


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTING", "STARTED"])
def test_runs_of_dead_processes_are_ended_and_those_of_others_are_not(status: str) -> None:
    """Whatever they were at: a run that stays under way keeps others from its source and from what it was to make."""
    pid, started, host = this_process().split(".", 2)
    ours, later, elsewhere = f"{pid}.{started}.{host}", f"{pid}.{int(started) - 1}.{host}", f"{pid}.{started}.another"
    with ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        runs = {
            owner: instance.create_run_for_job(
                job, tags={"etl/process": owner} if owner else {}, status=dg.DagsterRunStatus(status)
            ).run_id
            for owner in (ours, later, elsewhere, "")
        }
        log = instance.event_log_storage
        log.set_concurrency_slots("source_us_counties", 2)
        for owner in (ours, later):
            log.claim_concurrency_slot("source_us_counties", runs[owner], "landing")
        bury_those_of_commands(instance)
        at_the_source = log.get_concurrency_info("source_us_counties").claimed_slots
        assert [slot.run_id for slot in at_the_source] == [runs[ours]]
        ended = {owner for owner, run in runs.items() if instance.get_runs(dg.RunsFilter([run]))[0].is_finished}
    assert ended == {later, elsewhere}


def test_of_a_process_on_another_machine_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """But of the embedded default, which is of one machine, however that is called today."""
    pid, started, _ = this_process().split(".", 2)
    assert is_alive(this_process())
    assert not is_alive(f"{pid}.{started}.another")
    monkeypatch.setenv("ETL_DAGSTER_STORAGE_URL", "postgresql://a/dagster")
    assert is_alive(f"{pid}.{started}.another")
