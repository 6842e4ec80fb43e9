"""Runs in this process: which partitions a run has where others lie between them."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from etl_assets.local.in_process import execute
from etl_assets.stages.run_tags import RunPartitions

DAYS = dg.DailyPartitionsDefinition("2025-01-01", end_date="2025-03-01")
#: More than Dagster looks at one by one.
MANY_DAYS = dg.DailyPartitionsDefinition("2024-10-01", end_date="2025-03-01")
SCATTERED = ["2025-01-03", "2025-01-04", "2025-02-20"]
BAD = "2025-02-20"


@dg.asset
def source() -> None:
    """Has no partitions."""


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def upstream() -> None:
    """Is made before, and not by the run."""


@dg.asset(
    partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[source, upstream], output_required=False,
    check_specs=[
        dg.AssetCheckSpec("good", asset="first", partitions_def=DAYS, blocking=True),
        dg.AssetCheckSpec("whole", asset="first"),
    ],
)  # fmt: skip
def first(context: dg.AssetExecutionContext) -> Iterator[Any]:
    """Has a check of each partition, which one does not pass, and one of all that a run makes."""
    yield dg.MaterializeResult(metadata={"made": list(context.partition_keys)})
    for day in context.partition_keys:
        yield dg.AssetCheckEvaluation(first.key, "good", day != BAD, {}, partition=day)
    yield dg.Output(None, output_name="first_good")
    yield dg.AssetCheckResult(passed=True, check_name="whole")


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[upstream])
def second() -> None:
    """Is made in the same run."""


@dg.asset(partitions_def=MANY_DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def long_upstream() -> None:
    """Has more partitions."""


@dg.asset(deps=[source, upstream])
def of_days() -> None:
    """Has no partitions, and is made of what has."""


@dg.asset(deps=[source, long_upstream])
def of_many_days() -> None:
    """Likewise."""


DEFINITIONS = dg.Definitions([source, upstream, first, second, long_upstream, of_days, of_many_days])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        execute(DEFINITIONS, made, [source.key], {}, raise_on_error=True)
        execute(DEFINITIONS, made, [upstream.key], {}, partitions=DAYS.get_partition_keys(), raise_on_error=True)
        execute(DEFINITIONS, made, [long_upstream.key], {}, partitions=SCATTERED, raise_on_error=True)
        yield made


def test_a_run_has_the_partitions_that_it_is_given_and_none_between_them(instance: dg.DagsterInstance) -> None:
    run = execute(DEFINITIONS, instance, [first.key, second.key], {"who": "a test"}, partitions=SCATTERED)
    for key in (first.key, second.key):
        assert instance.get_materialized_partitions(key) == set(SCATTERED)
        planned = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        told = [event.dagster_event for event in instance.all_logs(run.run_id, of_type=planned)]
        assert sorted(event.partition or "" for event in told if event and event.asset_key == key) == SCATTERED
    evaluated: dict[tuple[str, str | None], bool] = {}
    for event in run.all_events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            evaluated[found.check_name, found.partition] = found.passed
    assert evaluated == {("whole", None): True} | {("good", day): day != BAD for day in SCATTERED}
    tags = run.dagster_run.tags
    assert tags["who"] == "a test"
    assert tags["dagster/asset_partition_range_start"] == SCATTERED[0]
    assert tags["dagster/asset_partition_range_end"] == SCATTERED[-1]
    assert tags["etl/partitions"] == "3"


@pytest.mark.parametrize(
    ("asset", "made_of", "days"),
    [(first, upstream, SCATTERED[:2]), (of_days, upstream, []), (of_many_days, long_upstream, [])],
)
def test_what_was_made_from_is_on_record_as_in_any_run(
    instance: dg.DagsterInstance, asset: dg.AssetsDefinition, made_of: dg.AssetsDefinition, days: list[str]
) -> None:
    """It is what the UI compares when it says that an asset is behind what it is made from."""
    job = DEFINITIONS.resolve_implicit_global_asset_job_def()
    tags = dict(RunPartitions(days[0], days[-1]).tags) if days else {}
    dagsters = job.execute_in_process(asset_selection=[asset.key], instance=instance, tags=tags)
    ours = execute(DEFINITIONS, instance, [asset.key], {}, partitions=days, raise_on_error=True)
    name = asset.key.to_user_string()
    made, expected = (run.asset_materializations_for_node(name)[0].tags for run in (ours, dagsters))
    assert made is not None
    assert expected is not None
    made_from = {tag: value for tag, value in expected.items() if tag.startswith("dagster/input_")}
    both = {f"dagster/input_data_version/{key.to_user_string()}" for key in (source.key, made_of.key)}
    assert made_from.keys() >= both
    assert {tag: made.get(tag) for tag in made_from} == made_from


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({"dagster/partition": "2025-01-03"}, "2025-01-03"),
        (RunPartitions("2025-01-03", "2025-01-03").tags, "2025-01-03"),
        (RunPartitions("2025-01-03", "2025-01-07").tags, "2025-01-03...2025-01-07"),
        (RunPartitions("2025-01-03", "2025-01-07", 3).tags, "2025-01-03...2025-01-07 (3 of them)"),
    ],
)
def test_tags_say_which_partitions_a_run_has(tags: dict[str, str], text: str) -> None:
    told = RunPartitions.of_tags(tags)
    assert told is not None
    assert str(told) == text
    assert [told.may_have(key) for key in ("2025-01-02", "2025-01-03", "2025-01-08")] == [False, True, False]


def test_a_run_without_partitions_has_none() -> None:
    assert RunPartitions.of_tags({"dagster/run_key": "1"}) is None
