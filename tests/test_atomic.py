"""atomic: what is written appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from molcmim.atomic import atomic_folder, atomic_path


def test_atomic_path_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["out.txt"]
    with (
        pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"),
        atomic_path(tmp_path / "nowhere" / "x"),
    ):
        pass


def test_atomic_folder_takes_the_place_of_its_own_files_only(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for text in ("first", "second"):
        (tmp_path / ".model.old").mkdir(exist_ok=True)  # what a process that was killed left
        (tmp_path / ".model.old" / "weights").touch()
        with atomic_folder(folder, "marker", "model", ["marker", "*.png"]) as unfinished:
            (unfinished / "marker").write_text(text)
        if text == "first":
            (folder / "notes.txt").write_text("mine")
            (folder / "curve.png").write_text("of the first")
            (folder / "data").mkdir()
            (folder / "data" / "table.csv").write_text("mine, too")
    assert (folder / "marker").read_text() == "second"
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "data" / "table.csv").read_text() == "mine, too"
    assert sorted(os.listdir(folder)) == ["data", "marker", "notes.txt"]
    assert sorted(os.listdir(tmp_path)) == [".model.old", "model"]
    (folder / "marker").unlink()
    with (
        pytest.raises(FileExistsError, match="model exists and is no model"),
        atomic_folder(folder, "marker", "model", ()),
    ):
        pass
    assert (folder / "notes.txt").exists()
