"""prospective, and `molcmim predict --measured`: later measurements beside predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import Crippen
from stores import MOLECULES
from typer.testing import CliRunner

from molcmim.cli import app
from molcmim.prospective import assess
from molcmim.sklearn import MolCMIMClassifier, MolCMIMRegressor

SMILES = [text for text, _ in MOLECULES]
LOGP = np.array([Crippen.MolLogP(Chem.MolFromSmiles(text)) for text in SMILES])
SETTINGS = {"epochs": 0, "predict_spellings": 1, "options": {"waves": 16, "spellings": 1}}
PNG = b"\x89PNG\r\n\x1a\n"


def predict(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--workers", "0"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_numbers(suffix: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = MolCMIMRegressor(tiny_checkpoint, ensemble=2, **SETTINGS).fit(SMILES[:30], LOGP[:30])
    model.save(tmp_path / "m")
    measured = [f"{value:.3f}" for value in LOGP[30:]]
    measured[0], measured[1] = "", ">5"
    pd.DataFrame({"smiles": ["C1CC", *SMILES[30:]], "found": ["1", *measured]}).to_csv(
        tmp_path / "new.csv", index=False
    )
    output = tmp_path / f"out{suffix}"
    done = predict(tmp_path / "m", tmp_path / "new.csv", "-o", output, "--measured", "found")
    assert done.exit_code == 0, done.output
    found = pd.read_csv(tmp_path / "out.metrics.csv").iloc[0]
    p = model.predict(SMILES[32:])
    assert (found["target"], found["part"], found["n"]) == ("y", "measured", 16)
    assert found["rmse"] == pytest.approx(np.sqrt(((p - LOGP[32:].round(3)) ** 2).mean()), rel=1e-4)
    assert "spearman" in done.stdout
    for picture in ("parity", "calibration"):
        assert (tmp_path / f"out.{picture}.png").read_bytes()[:8] == PNG
    for columns, message in (
        (["found", "smiles"], "predicts y: name a column of measured values for each"),
        (["pKa"], "no column pKa"),
        (["error"], "the column 'error' will hold the reasons of bad rows"),
    ):
        with pytest.raises(ValueError, match=message):
            assess(tmp_path / "m", output, columns)
    done = predict(tmp_path / "m", tmp_path / "new.csv", "-o", tmp_path / "never.csv", "--measured", "fuond")
    assert "no column fuond; the columns present: smiles, found" in done.stderr
    assert not (tmp_path / "never.csv").exists()  # refused before anything was predicted
    for array in ("out.npy", "out.NPY"):
        done = predict(tmp_path / "m", tmp_path / "new.csv", "-o", tmp_path / array, "--measured", "found")
        assert done.exit_code == 2
    (tmp_path / "new.csv").rename(tmp_path / "new.dat")
    arguments = [tmp_path / "m", tmp_path / "new.dat", "-o", tmp_path / f"dat{suffix}", "--measured", "found"]
    assert predict(*arguments, "--format", "csv").exit_code == 0


def test_one_is_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    greasy = (LOGP > 1.5).astype(int)
    MolCMIMClassifier(tiny_checkpoint, **SETTINGS).fit(SMILES[:30], greasy[:30]).save(tmp_path / "m")
    frame = pd.DataFrame({"smiles": SMILES[30:], "greasy": [np.nan, *greasy[31:]]})  # which pandas writes as 1.0
    frame.to_csv(tmp_path / "new.csv", index=False)
    done = predict(tmp_path / "m", tmp_path / "new.csv", "-o", tmp_path / "out.csv", "--measured", "greasy")
    assert done.exit_code == 0, done.output
    assert pd.read_csv(tmp_path / "out.metrics.csv")["n"][0] == 17


def test_classes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    labels = np.where(LOGP > 1.5, "oil", "brine")
    model = MolCMIMClassifier(tiny_checkpoint, **SETTINGS).fit(SMILES[:30], labels[:30])
    model.save(tmp_path / "m")
    frame = pd.DataFrame({"smiles": SMILES[30:], "phase": labels[30:]})
    frame.to_csv(tmp_path / "new.csv", index=False)
    done = predict(tmp_path / "m", tmp_path / "new.csv", "-o", tmp_path / "out.csv", "--measured", "phase")
    assert done.exit_code == 0, done.output
    assert pd.read_csv(tmp_path / "out.metrics.csv")["positive"][0] == "oil"
    accuracy = (model.predict(SMILES[30:]) == labels[30:]).mean()
    assert pd.read_csv(tmp_path / "out.metrics.csv")["accuracy"][0] == pytest.approx(accuracy)
    assert (tmp_path / "out.confusion.png").read_bytes()[:8] == PNG
    frame.replace({"phase": {"oil": "water"}}).to_csv(tmp_path / "new.csv", index=False)
    done = predict(tmp_path / "m", tmp_path / "new.csv", "-o", tmp_path / "early.csv", "--measured", "phase")
    assert "the model knows brine, oil, not water" in done.stderr
    assert not (tmp_path / "early.csv").exists()  # nothing was predicted first
    pd.read_csv(tmp_path / "out.csv").replace({"phase": {"oil": "water"}}).to_csv(tmp_path / "out.csv", index=False)
    with pytest.raises(ValueError, match="the model knows brine, oil, not water"):
        assess(tmp_path / "m", tmp_path / "out.csv", ["phase"])
    pd.read_csv(tmp_path / "out.csv").assign(phase=None).to_csv(tmp_path / "out.csv", index=False)
    with pytest.raises(ValueError, match="no row has a prediction and a measured value"):
        assess(tmp_path / "m", tmp_path / "out.csv", ["phase"])
