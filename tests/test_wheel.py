"""The wheel alone, unpacked into an empty folder, does the main job: tokenizers and checkpoint travel in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("molcmim-*.whl")
    return built


def test_what_it_carries(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"molcmim", f"molcmim-{wheel.name.split('-')[1]}.dist-info"}
    assert "molcmim/py.typed" in names
    assert {"molcmim/recipes/tiny.yaml", "molcmim/recipes/small.yaml", "molcmim/recipes/base.yaml"} <= set(names)
    for data in ("tokenizers/smiles/tokenizer.json", "tokenizers/selfies/tokenizer.json",
                 "checkpoints/molcmim-small/model.safetensors"):  # fmt: skip
        assert f"molcmim/_data/{data}" in names
    assert wheel.stat().st_size < 64 * 2**20


def test_it_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    (empty / "molecules.csv").write_text("smiles,name\nCCO,ethanol\nc1ccccc1,benzene\n")
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    where = [sys.executable, "-c", "import molcmim; print(molcmim.__file__)"]
    found = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(site)
    featurize = [sys.executable, "-m", "molcmim.cli", "featurize", "molecules.csv", "-o", "out.parquet"]
    done = subprocess.run(featurize, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pd.read_parquet(empty / "out.parquet")["name"].tolist() == ["ethanol", "benzene"]
