"""tuning_report: parts, labels and warnings of a table that a model is fine-tuned on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from sklearn.metrics import roc_auc_score
from tables import LOGP, SMILES, command

from molcmim import tuning_report
from molcmim.sklearn import MolCMIMClassifier
from molcmim.smiles import random_spellings

PNG = b"\x89PNG\r\n\x1a\n"


def test_parts_and_choices_of_ones_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    parts = ["train"] * 40 + ["Valid"] * 8
    frame = pd.DataFrame({"smiles": SMILES, "logP": LOGP, "set": parts, "error": 0.1})
    frame.to_csv(tmp_path / "data.csv", index=False)
    arguments = (
        "finetune", tmp_path / "data.csv", "--target", "logP", "--split-column", "set", "--set", "waves=16",
        "--set", "descriptors=false", "--epochs", 0, "--checkpoint", tiny_checkpoint, "-o", tmp_path / "m",
    )  # fmt: skip
    run = command(*arguments)
    assert run.exit_code == 0, run.output
    found = pd.read_csv(tmp_path / "m" / "predictions.csv")
    assert found["part"].tolist() == [part.lower() for part in parts]
    assert (found["input_error"] == 0.1).all()
    choices = json.loads((tmp_path / "m" / "finetuned.json").read_text())["training"]["choices"]
    assert (choices["waves"], choices["descriptors"], choices["epochs"]) == (16, False, 0)
    assert command(*arguments).exit_code == 1
    assert command(*arguments, "--ensemble", 2, "--restart").exit_code == 0  # its calibration is of the valid part
    assert (tmp_path / "m" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    last = command(*arguments[:4], *arguments[6:-1], tmp_path / "last", "--split-sizes", "0.75", "0.25", "0")
    assert last.exit_code == 0, last.output
    assert "there is no test part; errors of the valid part" in last.stderr
    found = pd.read_csv(tmp_path / "last" / "predictions.csv")
    assert found["part"].value_counts().to_dict() == {"train": 36, "valid": 12}
    assert (
        "of train, valid and test must add to 1"
        in command(*arguments[:4], "-o", tmp_path / "x", "--split-sizes", "0.75", "0.2", "0.15").stderr
    )


def test_classes_by_scaffold(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pd.DataFrame({"smiles": SMILES, "greasy": np.array(LOGP) > 1.5}).astype({"greasy": int}).to_csv(
        tmp_path / "data.csv", index=False
    )
    run = command(
        "finetune", tmp_path / "data.csv", "--target", "greasy", "--classify", "--epochs", 1, "--split", "scaffold",
        "--checkpoint", tiny_checkpoint, "-o", tmp_path / "model",
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    found = pd.read_csv(tmp_path / "model" / "predictions.csv").query("part == 'train'")
    said = pd.read_csv(tmp_path / "model" / "metrics.csv").set_index("part").loc["train"]
    y, p = found["greasy"].to_numpy() == 1, found["greasy_probability"].to_numpy()
    tp, fp, fn, tn = ((p > 0.5) & y).sum(), ((p > 0.5) & ~y).sum(), ((p <= 0.5) & y).sum(), ((p <= 0.5) & ~y).sum()
    assert said["accuracy"] == pytest.approx((tp + tn) / len(y))
    assert said["mcc"] == pytest.approx((tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    assert said["roc_auc"] == pytest.approx((p[y][:, None] > p[~y]).mean())  # no two are equal
    assert said["average_precision"] == pytest.approx(np.mean([y[p >= own].mean() for own in p[y]]))
    assert not (tmp_path / "model" / "parity.png").exists()
    classifier = MolCMIMClassifier.load(tmp_path / "model", "cpu")
    assert classifier.predict_proba(SMILES).shape == (48, 2)
    assert set(classifier.predict(SMILES)) <= {0.0, 1.0}


def test_labels_of_classes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    labels = np.where(np.array(LOGP) > 1.5, "oil", "brine").tolist()
    pd.DataFrame({"smiles": SMILES, "phase": ["", *labels[1:]]}).to_csv(tmp_path / "data.csv", index=False)
    run = command(
        "finetune", tmp_path / "data.csv", "--target", "phase", "--classify", "--epochs", 1,
        "--checkpoint", tiny_checkpoint, "-o", tmp_path / "model",
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    found = pd.read_csv(tmp_path / "model" / "predictions.csv")
    assert not found["error"].notna().any()
    assert found["part"].isna().tolist() == [True] + [False] * 47
    assert (tmp_path / "model" / "confusion.png").read_bytes()[:8] == PNG
    assert found["phase"][1:].tolist() == labels[1:]
    classifier = MolCMIMClassifier.load(tmp_path / "model", "cpu")
    assert classifier.classes_.tolist() == ["brine", "oil"]
    assert found["phase_predicted"].tolist() == classifier.predict(SMILES).tolist()  # that without a value, too
    both = found[["phase_probability_brine", "phase_probability_oil"]][1:]
    np.testing.assert_allclose(classifier.predict_proba(SMILES[1:]), both, rtol=1e-5)
    assert found["phase_predicted"][1:].tolist() == np.array(["brine", "oil"])[both.to_numpy().argmax(1)].tolist()
    train = found.query("part == 'train'")
    said = pd.read_csv(tmp_path / "model" / "metrics.csv").set_index("part").loc["train"]
    assert said["accuracy"] == pytest.approx((train["phase"] == train["phase_predicted"]).mean())
    assert said["roc_auc"] == pytest.approx(roc_auc_score(train["phase"] == "oil", train["phase_probability_oil"]))


def test_a_stratified_split_is_by_one_target(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rare = ["yes" if i % 5 == 0 else "no" for i in range(48)]
    pd.DataFrame({"smiles": SMILES, "rare": rare, "logP": LOGP}).to_csv(tmp_path / "data.csv", index=False)
    common = ["finetune", tmp_path / "data.csv", "--target", "rare", "--classify", "--split", "stratified",
              "--epochs", 0, "--checkpoint", tiny_checkpoint, "-o", tmp_path / "model"]  # fmt: skip
    run = command(*common)
    assert run.exit_code == 0, run.output
    found = pd.read_csv(tmp_path / "model" / "predictions.csv")
    assert found[found["rare"] == "yes"]["part"].value_counts().to_dict() == {"train": 8, "valid": 1, "test": 1}
    run = command(*common, "--target", "logP", "--restart")
    assert run.exit_code == 1
    assert "a stratified split is by one target, not by rare, logP" in run.output


def test_repeats_are_of_what_the_model_reads(tiny_checkpoint: Path, tmp_path: Path) -> None:
    salts = [f"{text}.Cl" for text in SMILES[:24]]
    pd.DataFrame({"smiles": [*SMILES[:24], *salts], "logP": [*LOGP[:24]] * 2}).to_csv(
        tmp_path / "data.csv", index=False
    )
    common = ["finetune", tmp_path / "data.csv", "--target", "logP", "--epochs", 0, "--set", "descriptors=false",
              "--checkpoint", tiny_checkpoint, "-o", tmp_path / "model", "--restart"]  # fmt: skip
    assert "earlier molecule" not in command(*common).stderr
    assert "24 row(s) repeat an earlier molecule" in command(*common, "--standardize").stderr
    run = command(*common, "--standardize", "--group-column", "smiles")
    assert "too low" not in run.stderr


def test_doubtful_labels_are_pointed_out_and_drawn_as_they_are(tiny_checkpoint: Path, tmp_path: Path) -> None:
    labels = np.where(np.array(LOGP) > 1.5, "$x_$", "_neg").astype(object)
    labels[[0, 1]] = "$X_$", "N/A"
    parts = ["test", *["train"] * 41, *["valid"] * 6]
    pd.DataFrame({"smiles": SMILES, "a $b": labels, "part of it": parts}).to_csv(tmp_path / "d$.csv", index=False)
    run = command("finetune", tmp_path / "d$.csv", "--target", "a $b", "--classify", "--epochs", 0, "--set",
                  "descriptors=false", "--split-column", "part of it", "--checkpoint", tiny_checkpoint, "-o",
                  tmp_path / "model")  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "a $b: few rows have the label $X_$ (1)" in run.stderr
    assert "a $b: no row of the train part has the label $X_$" in run.stderr
    assert "a $b: $X_$ and $x_$ are different labels" in run.stderr
    assert "N/A" not in run.stderr  # which is no label
    assert (tmp_path / "model" / "confusion.png").read_bytes()[:8] == PNG


def test_rows_of_one_group_stay_in_one_part(tiny_checkpoint: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"smiles": SMILES, "logP": LOGP, "project": [f"p{i // 3}" for i in range(48)]})
    repeated = frame.assign(smiles=[random_spellings(Chem.MolFromSmiles(s), 1, 0)[0] for s in SMILES])
    repeated.loc[::2, "project"] = None  # each of which is a group of its own
    pd.concat([frame, repeated]).to_csv(tmp_path / "data.csv", index=False)
    common = ["finetune", tmp_path / "data.csv", "--target", "logP", "--epochs", 0, "--set", "descriptors=false",
              "--checkpoint", tiny_checkpoint, "-o", tmp_path / "model", "--restart"]  # fmt: skip
    run = command(*common)
    assert "hold molecules of train, so errors there are too low; --group-column of the SMILES" in run.stderr
    for column in ("smiles", "project"):
        run = command(*common, "--group-column", column)
        assert run.exit_code == 0, run.output
        found = pd.read_csv(tmp_path / "model" / "predictions.csv")
        assert set(found["part"]) == {"train", "valid", "test"}
        groups = found["project"] if column == "project" else pd.Series([*SMILES, *SMILES])
        assert (found["part"].groupby(groups).nunique() == 1).all()
        assert ("too low" in run.stderr) == (column == "project")
    assert "by project" in (tmp_path / "model" / "finetuned.json").read_text(encoding="utf-8")
    run = command(*common, "--group-column", "nowhere")
    assert "no column nowhere; the columns present: smiles, logP, project" in run.output


def test_labels_are_numbers_only_if_they_are_written_so() -> None:
    def classes(*labels: str | None) -> list[Any]:
        return tuning_report._numbered(np.array(labels, object)[:, None], True)[1]

    assert classes("1", "0", "1.0", None) == [0, 1]
    assert classes("0.5", "-1", "2") == [-1, 0.5, 2]
    assert classes("01", "1", "2") == ["01", "1", "2"]
    assert classes("1_2", "12") == ["12", "1_2"]


def test_what_looks_like_measurements_is_no_class(tiny_checkpoint: Path, tmp_path: Path) -> None:
    texts = [f"{value:.3f}" for value in LOGP]
    texts[3], texts[7] = "<0.5", "n.d."
    pd.DataFrame({"smiles": SMILES, "y": texts, "kind": "a"}).to_csv(tmp_path / "t.csv", index=False)
    common = ["finetune", tmp_path / "t.csv", "--target", "y", "--epochs", 0, "--checkpoint", tiny_checkpoint,
              "--set", "waves=16", "-o", tmp_path / "m"]  # fmt: skip
    run = command(*common)
    assert run.exit_code == 1
    assert "row 3, y: '<0.5' is no finite number; row 7, y: 'n.d.'" in run.stderr
    assert run.stderr.endswith("--skip-bad-values counts them as unknown\n")
    assert "different values in 48 fields, such as" in command(*common, "--classify").stderr
    kind = command("finetune", tmp_path / "t.csv", "--target", "kind", "-o", tmp_path / "m")
    assert kind.stderr.endswith("labels of classes take --classify\n")
    assert not (tmp_path / "m").exists()
    run = command(*common, "--skip-bad-values")
    assert run.exit_code == 0, run.output
    found = pd.read_csv(tmp_path / "m" / "predictions.csv")
    assert found["error"].dropna().to_dict() == {
        3: "y: '<0.5' is no finite number", 7: "y: 'n.d.' is no finite number"
    }  # fmt: skip
    assert found["y_predicted"].notna().all()
    assert found["part"].isna().sum() == 2


def test_a_target_cannot_be_called_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pd.DataFrame({"smiles": SMILES, "error": LOGP}).to_csv(tmp_path / "data.csv", index=False)
    run = command("finetune", tmp_path / "data.csv", "--target", "error", "-o", tmp_path / "m")
    assert "the column 'error' will hold the reasons of bad rows; rename that of the measured values" in run.stderr
    assert not (tmp_path / "m").exists()


def test_warnings(tiny_checkpoint: Path, tmp_path: Path) -> None:
    molecules, ic50 = [*SMILES, *SMILES[:9]], [*10 ** np.array(LOGP), *10 ** np.array(LOGP[:9])]
    pd.DataFrame({"smiles": molecules, "ic50": ic50}).to_csv(tmp_path / "t.csv", index=False)
    run = command(
        "finetune", tmp_path / "t.csv", "--target", "ic50", "--epochs", 0, "--checkpoint", tiny_checkpoint,
        "--set", "waves=16", "-o", tmp_path / "m",
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "to know: ic50: 9 row(s) repeat an earlier molecule; " in run.stderr
    assert "so errors there are too low" in run.stderr
    powers = np.log10(max(ic50) / min(ic50))
    assert f"to know: ic50 spans {powers:.0f} powers of ten; its logarithm is easier to predict" in run.stderr
    assert "choose the epoch" not in run.stderr
