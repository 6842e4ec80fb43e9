"""The house itself: the whole graph as it is declared, and which room may import which."""

from __future__ import annotations

import ast
import gc
import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.definitions import defs
from etl_assets.local.dictionary import DICTIONARY, current_dictionary
from etl_assets.stages.staleness import in_order

SNAPSHOT = Path(__file__).with_name("graph.json")
PACKAGE = Path(__file__).parent.parent / "etl_assets"
#: A room imports only from rooms below it; `datasets` is imported by none but `definitions`.
FLOOR = {
    "settings": 0,
    "objects": 0,
    "logs": 1,
    "storage": 2,
    "sources": 2,
    "quality": 3,
    "stages": 4,
    "datasets": 5,
    "automation": 5,
    "definitions": 6,
    "local": 7,
}


def graph() -> dict[str, Any]:
    """The graph of assets, checks, sensors and schedules, as plain data."""
    assets = defs.resolve_asset_graph()
    nodes = {}
    for key in sorted(assets.materializable_asset_keys, key=lambda k: k.to_user_string()):
        node = assets.get(key)
        nodes[key.to_user_string()] = {
            "parents": sorted(parent.to_user_string() for parent in node.parent_keys),
            "group": node.group_name,
            "partitions": type(node.partitions_def).__name__ if node.partitions_def else None,
            "batch": node.backfill_policy.max_partitions_per_run if node.backfill_policy else None,
            "checks": {
                check.name: "blocking" if assets.get_check_spec(check).blocking else "reported"
                for check in sorted(node.check_keys, key=lambda c: c.name)
            },
            "pools": sorted(node.pools or []),
            "automated": node.automation_condition is not None,
            "owners": list(node.owners),
        }
    repository = defs.get_repository_def()
    sensors = {s.name: s.default_status.value for s in sorted(repository.sensor_defs, key=lambda s: s.name)}
    schedules = {s.name: str(s.cron_schedule) for s in sorted(repository.schedule_defs, key=lambda s: s.name)}
    return {"assets": nodes, "sensors": sensors, "schedules": schedules}


def test_the_graph_is_the_one_that_was_agreed_on() -> None:
    """A change of the graph is seen in review: delete graph.json and run this test to accept it."""
    found = json.dumps(graph(), indent=1) + "\n"
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(found)
    assert found == SNAPSHOT.read_text()


def test_every_contract_builds_a_table_that_says_what_its_columns_mean() -> None:
    for table in [spec.table for spec in in_order() if spec.table]:
        assert table.description, table.full_name
        assert all(column.description for column in table.stored_columns()), table.full_name
        if table.stage in ("refined", "presentation"):
            assert table.primary_key, table.full_name


def test_the_data_dictionary_is_current() -> None:
    assert DICTIONARY.read_text() == current_dictionary(), "run ./dev dictionary"


def test_assets_are_declared_in_the_order_in_which_data_flows() -> None:
    seen: set[dg.AssetKey] = set()
    for spec in in_order():
        assert {source.key for source in spec.inputs.values()} <= seen, spec.key
        seen.add(spec.key)


#: Lines of code that a dataset's file may have beside its column declarations, and where more are needed.
LINES = 80
MORE_LINES = {
    # Four tables of a file without ids whose form has drifted for years: ids, sources, issues, counties and crowds.
    "protest_events.py": 230,
}


@pytest.mark.parametrize("path", sorted((PACKAGE / "datasets").glob("[a-z]*.py")), ids=lambda p: str(p.stem))
def test_a_dataset_says_only_what_is_particular_to_it(path: Path) -> None:
    """Counted is all but contracts (the column declarations), imports, docstrings, comments and empty lines."""
    source = path.read_text()
    tree = ast.parse(source)
    other: set[int] = set()
    node: Any
    contracts = {"Contract"}
    for node in ast.walk(tree):
        is_contract = isinstance(node, ast.ClassDef) and not contracts.isdisjoint(map(ast.unparse, node.bases))
        if is_contract:
            contracts.add(node.name)
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
        left_out: Any = node.body[0] if documented and not is_contract else node
        if documented or is_contract or isinstance(node, (ast.Import, ast.ImportFrom)):
            other |= set(range(left_out.lineno, (left_out.end_lineno or 0) + 1))
    lines = [line.strip() for number, line in enumerate(source.splitlines(), 1) if number not in other]
    code = [line for line in lines if line and not line.startswith("#")]
    assert len(code) <= MORE_LINES.get(path.name, LINES), f"{len(code)} lines: see what other datasets could share"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            parts = name.split(".")
            if parts[0] != "etl_assets" or len(parts) < 2 or parts[1] == room:
                continue
            assert FLOOR[parts[1]] < FLOOR[room] or (room, parts[1]) == ("datasets", "automation"), name
            assert parts[1] != "datasets" or room == "definitions", name
            # What a record is, but nothing of how it is fetched.
            assert (room, parts[1]) != ("quality", "sources") or name == "etl_assets.sources.records", name


def test_a_loaded_house_looks_for_garbage_again() -> None:
    """Not while it is loaded: what is loaded stays. Frames that a run leaves in cycles have to go."""
    assert gc.get_freeze_count() > 100_000
    assert gc.isenabled()
    assert gc.get_threshold()[0] <= 50_000
