"""datasets: what is read, where it is looked for, the download, splits against DeepChem's own, the audit."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from molcmim import datasets

NAMES = ("esol", "freesolv", "lipophilicity")


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data set is found by accident, and none comes from the network."""
    for name in ("MOLCMIM_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOLCMIM_HOME", str(tmp_path / "home"))
    for name, known in datasets.DATASETS.items():
        monkeypatch.setitem(datasets.DATASETS, name, known._replace(url=f"http://127.0.0.1:9/{known.file}"))


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_of_a_set_have_the_published_content(name: str, shared_data: Path) -> None:
    folder, known = shared_data / "moleculenet", datasets.DATASETS[name]
    ours, theirs = datasets.load(name, folder), datasets.load(name, folder / "deepchem")
    assert list(ours) == ["smiles", "y"]
    assert ours.y.dtype == np.float64
    assert len(ours) == known.rows
    assert datasets.content_hash(ours) == datasets.content_hash(theirs) == known.sha256
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_folder_given_comes_before_the_variable_and_the_variable_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, place in enumerate(("given", "variable", "home/datasets")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "esol.csv").write_text(f"smiles,y\nCCO,{i}\n")
    monkeypatch.setenv("MOLCMIM_DATA", str(tmp_path / "variable"))
    with pytest.warns(UserWarning, match=r"given.esol\.csv does not hold the published esol \(1 rows, of 1128"):
        assert datasets.load("esol", tmp_path / "given").y.item() == 0
    with pytest.warns(UserWarning, match="does not hold the published esol"):
        assert datasets.load("esol").y.item() == 1
    monkeypatch.delenv("MOLCMIM_DATA")
    with pytest.warns(UserWarning, match="does not hold the published esol"):
        assert datasets.load("esol").y.item() == 2
    with pytest.raises(FileNotFoundError, match=r"freesolv: no freesolv\.csv or SAMPL\.csv in .*given; put"):
        datasets.load("freesolv", tmp_path / "given")
    with pytest.raises(ValueError, match="unknown data set 'sider'; known are esol, freesolv, lipophilicity"):
        datasets.load("sider")


def test_offline_the_error_says_where_to_put_which_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load("esol")
    for part in ("127.0.0.1:9", "delaney-processed.csv", "esol.csv", str(tmp_path / "home"), "MOLCMIM_DATA"):
        assert part in str(caught.value)
    assert not list(tmp_path.rglob("*"))


@pytest.fixture
def server(tmp_path: Path):
    """A folder that is served on this machine, and its address."""
    (folder := tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{host.server_port}/"
        host.shutdown()


def test_download_is_verified_and_kept(
    server: tuple[Path, str], shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    known = datasets.DATASETS["freesolv"]
    monkeypatch.setitem(datasets.DATASETS, "freesolv", known._replace(url=address + known.file))
    cached = tmp_path / "home" / "datasets" / known.file

    published = (shared_data / "moleculenet/deepchem" / known.file).read_bytes()
    for damaged, said in (
        (published.replace(b"-11.01", b"-11.02"), "642 rows of SHA-256"),
        (published[:-200], "rows of SHA-256"),
        (b"<html>log in first</html>", r"25 bytes that are no such table, b'<html>"),
        (b"", "0 bytes that are no such table"),
    ):
        (folder / known.file).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"did not give the published freesolv: .*{said}.* put the file into"):
            datasets.load("freesolv")
        assert not list(cached.parent.iterdir())

    (folder / known.file).write_bytes(published)
    data = datasets.load("freesolv")
    assert [path.name for path in cached.parent.iterdir()] == [known.file]
    shutil.rmtree(folder)
    pd.testing.assert_frame_equal(datasets.load("freesolv"), data)


def test_any_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("id,structure,logS,pKa\na,CCO ,-0.5,15.9\nb,CC(=O)O,,4.76\n")
    frame = datasets.load_csv(path, "structure", ["logS", "pKa"])
    assert frame.smiles.tolist() == ["CCO", "CC(=O)O"]
    np.testing.assert_array_equal(frame[["logS", "pKa"]], [[-0.5, 15.9], [np.nan, 4.76]])
    assert list(datasets.load_csv(path, "structure", "pKa")) == ["smiles", "y"]
    with pytest.raises(ValueError, match="no column y; the columns present: id, structure, logS, pKa"):
        datasets.load_csv(path, "structure")
    path.write_text("smiles,y\nCCO,1\nCCN,>2\n")
    with pytest.raises(ValueError, match=r"row 1, y: '>2' is no finite number"):
        datasets.load_csv(path)


def test_digits_apart_are_no_number(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("smiles,y\nC,1_0\n")
    with pytest.raises(ValueError, match="row 0, y: '1_0' is no finite number"):
        datasets.load_csv(tmp_path / "t.csv")


def test_audit_counts_repeats_conflicts_and_leaks(shared_data: Path) -> None:
    data = pd.DataFrame(
        {"smiles": ["CCO", "c1ccccc1", "OCC", "C1=CC=CC=C1", "CC", "C(O)C"], "y": [1.0, 2, 1.5, 2, 0, 1]}
    )
    parts = datasets.Split(*(np.array(rows) for rows in ([0, 1, 4], [2, 3], [5])))
    found = datasets.audit(data, parts)
    assert found.repeated == [("CCO", [0, 2, 5], 0.5), ("c1ccccc1", [1, 3], 0.0)]
    assert found.duplicates == 3
    assert found.conflicts == found.repeated[:1]
    assert found.leaked == {"valid in train": 2, "test in train": 1, "test in valid": 1}
    assert str(found).startswith(
        "3 row(s) repeat an earlier molecule; 1 of these molecules have values that differ, by"
    )
    assert str(found).endswith("1 row(s) of test hold molecules of valid, so errors there are too low")

    esol = datasets.audit(datasets.load("esol", shared_data / "moleculenet"))
    assert esol.duplicates == 11
    assert esol.repeated[0].spread == pytest.approx(1.03, abs=0.005)
