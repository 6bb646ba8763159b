"""atomic: what is written appears whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from molcmim import atomic
from molcmim.atomic import alone, atomic_folder, atomic_path


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


@pytest.mark.parametrize("exchanged", [True, False])
def test_links_stay_and_what_they_lead_to_is_written(
    exchanged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanged:  # as on systems that cannot
        monkeypatch.setattr(atomic, "_exchange", lambda *paths: False)
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "out.txt").symlink_to(disk / "out.txt")
    (tmp_path / "model").symlink_to(disk / "model")
    for text in ("first", "second"):
        with atomic_path(tmp_path / "out.txt") as partial:
            assert partial.parent == disk
            partial.write_text(text)
        with atomic_folder(tmp_path / "model", "marker", "model", ["marker"]) as unfinished:
            (unfinished / "marker").write_text(text)
        assert (disk / "out.txt").read_text() == (disk / "model" / "marker").read_text() == text
    assert (tmp_path / "out.txt").is_symlink()
    assert (tmp_path / "model").is_symlink()
    assert sorted(os.listdir(disk)) == ["model", "out.txt"]


def test_two_folders_change_places_at_once(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
        (folder / folder.name).touch()
    assert atomic._exchange(a, b) == sys.platform.startswith("linux")
    if sys.platform.startswith("linux"):
        assert (os.listdir(a), os.listdir(b)) == (["b"], ["a"])
    assert not atomic._exchange(a, tmp_path / "nowhere")


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    script = """
import os, sys
from molcmim.atomic import atomic_folder
with atomic_folder(sys.argv[1], "m", "model", ()) as folder:
    os.close(os.open(folder / "m", os.O_CREAT, 0o600))
"""
    for umask, modes in ((0o022, (0o755, 0o644)), (0o077, (0o700, 0o600)), (0o002, (0o775, 0o664))):
        folder = tmp_path / str(umask)
        subprocess.run([sys.executable, "-c", script, folder], check=True, umask=umask)
        assert (folder.stat().st_mode & 0o777, (folder / "m").stat().st_mode & 0o777) == modes


def test_errors_say_which_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: .*big\.csv") as caught,
        atomic_path(tmp_path / "big.csv"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename.endswith("big.csv")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file"), atomic_path(tmp_path):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = "import sys; from molcmim.atomic import alone\nwith alone(sys.argv[1]): print('in')"
    with alone(path):
        other = subprocess.run([sys.executable, "-c", script, path], check=False, capture_output=True, text=True)
        assert "another process is writing" in other.stderr
    assert subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True).stdout == b"in\n"
    assert os.listdir(tmp_path) == []
