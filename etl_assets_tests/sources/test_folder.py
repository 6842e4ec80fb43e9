"""A folder that files are dropped into; what is made of them is told by the tests of the retail datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import obstore
import pytest

from etl_assets.sources import Workspace
from etl_assets.sources.folder import WatchedFolder


def test_a_file_that_cannot_be_read_is_told_of_and_keeps_nothing_else_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = WatchedFolder(lambda settings: str(tmp_path), "ETL_SALES_FOLDER", Path.read_bytes, ".csv")
    (tmp_path / "good.csv").write_text("a\n1\n")
    before = folder.probe(None)
    (tmp_path / "locked.csv").write_text("a\n1")  # without an end of its line: it is looked at whether it is whole
    _lock(monkeypatch, "locked.csv")
    assert folder.probe(None) not in (None, before)
    (work := tmp_path / "work").mkdir()
    found = folder.fetch(Workspace(work), None)
    assert found is not None
    assert list(found.files) == ["good.csv"]
    assert "It cannot be read: it is locked. It is tried again with the next run." in found.refused["locked.csv"]


def _lock(monkeypatch: pytest.MonkeyPatch, locked: str) -> None:
    """Let nobody read a file: of its permissions, root would take no notice."""
    for name in ("get", "get_range"):
        read = getattr(obstore, name)

        def refuse(store: Any, path: str, *given: Any, read: Any = read, **named: Any) -> Any:
            if path == locked:
                raise obstore.exceptions.GenericError("it is locked")
            return read(store, path, *given, **named)

        monkeypatch.setattr(obstore, name, refuse)


def test_what_cannot_be_looked_at_keeps_no_other_file_waiting(tmp_path: Path) -> None:
    """A name that is not text, one that no object may have, and a link that leads back."""
    folder = WatchedFolder(lambda settings: str(tmp_path / "sales"), "ETL_SALES_FOLDER", Path.read_bytes, ".csv")
    (sales := tmp_path / "sales").mkdir()
    (tmp_path / "work").mkdir()
    (sales / "good.csv").write_text("a\n1\n")
    before = folder.probe(None)
    for odd in (b"caf\xe9.csv", b"x\ny.csv", b".hidden\xe9.csv"):
        Path(os.fsdecode(bytes(sales) + b"/" + odd)).write_text("a\n1\n")
    (sales / "loop").symlink_to(sales)
    assert folder.probe(None) == before
    found = folder.fetch(Workspace(tmp_path / "work"), None)
    assert found is not None
    assert list(found.files) == ["good.csv"]
    assert found.refused.keys() == {"caf\ufffd.csv", "x\ny.csv"}
    assert all(why.startswith("It cannot be read: ") for why in found.refused.values())
