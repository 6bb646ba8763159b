"""cli_property and bulk's predictions: from a table to a model to predictions of any file."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from sklearn.base import clone
from tables import LOGP, SMILES, command

from molcmim import bulk, cli_generation
from molcmim.sklearn import MolCMIMClassifier, MolCMIMRegressor
from molcmim.smiles import similarities
from molcmim.tuned import PropertyModel

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `molcmim finetune` has left an ensemble of two for two targets, of a table with three bad rows."""
    place = tmp_path_factory.mktemp("finetune")
    frame = pd.DataFrame({"name": range(48), "SMILES": SMILES, "logP": LOGP, "double": np.multiply(LOGP, 2)})
    frame.loc[::5, "double"] = np.nan
    frame.loc[[3, 9], "SMILES"] = ["C1CC", "C" * 600]
    frame.loc[5, ["logP", "double"]] = np.nan
    frame.to_csv(place / "data.csv", index=False)
    run = command(
        "finetune", place / "data.csv", "--target", "logP", "--target", "double", "--ensemble", 2, "--epochs", 1,
        "--checkpoint", tiny_checkpoint, "-o", place / "model", "--strict",
    )  # fmt: skip
    assert run.exit_code == 2, run.output  # there are bad rows
    assert "48 rows, 45 of them in a part, 2 with errors (reasons are in predictions.csv)" in run.stderr
    assert "repeat" not in run.stderr
    assert "to know: only 4 molecule(s), the valid part, choose the epoch" in run.stderr
    assert "rmse" in run.stdout
    return place


def test_the_folder_says_what_was_done(folder: Path) -> None:
    model = folder / "model"
    for name in ("parity.png", "learning.png", "calibration.png"):
        assert (model / name).read_bytes()[:8] == PNG
    table = pd.read_csv(model / "predictions.csv")
    assert table["error"].dropna().to_dict().keys() == {3, 9}
    assert "unclosed ring" in table["error"][3]
    assert "602 tokens" in table["error"][9]
    assert table["part"].isna().to_numpy().nonzero()[0].tolist() == [3, 5, 9]  # 5 has no value, but is predicted
    assert table["part"].value_counts().to_dict() == {"train": 36, "valid": 4, "test": 5}
    assert table.columns.tolist() == [
        "name", "SMILES", "logP", "double", "part",
        "logP_predicted", "double_predicted", "logP_std", "double_std", "train_similarity",
        "nearest_train", "error",
    ]  # fmt: skip
    given = pd.read_csv(folder / "data.csv")
    pd.testing.assert_frame_equal(table[given.columns], given)
    good = table[table["error"].isna()]
    predicted = PropertyModel.load(model, "cpu").predict(good["SMILES"])
    np.testing.assert_allclose(good[table.columns[5:9]], predicted, atol=1e-4)
    near = good["train_similarity"].groupby(good["part"]).agg(["min", "max"])
    assert not good["train_similarity"].isna().any()
    assert near.loc["train"].tolist() == [1, 1]
    for row in good[good["part"] == "test"].itertuples():  # what is named is as similar as it is said to be
        assert similarities(row.SMILES, [row.nearest_train])[0] == pytest.approx(row.train_similarity)
    assert set(good["nearest_train"]) <= {Chem.CanonSmiles(s) for s in good.query("part == 'train'")["SMILES"]}
    assert 0 < near.loc["test", "min"] < near.loc["test", "max"] <= 1
    metrics = pd.read_csv(model / "metrics.csv").fillna({"train_similarity": ""})
    assert metrics.columns[:4].tolist() == ["target", "part", "train_similarity", "n"]
    metrics = metrics.set_index(["target", "part", "train_similarity"])
    test = good[good["part"] == "test"].dropna(subset="double")
    said = metrics.loc[("double", "test", "")]
    assert said["n"] == len(test)
    assert said["rmse"] == pytest.approx(np.sqrt(((test["double"] - test["double_predicted"]) ** 2).mean()), rel=1e-4)
    assert said["spearman"] == pytest.approx(test[["double", "double_predicted"]].corr("spearman").iloc[0, 1])
    facts = json.loads((model / "finetuned.json").read_text())
    assert facts["training"]["table"] == {
        "file": "data.csv", "split": "random", "seed": 0, "rows": 48, "left_out": 3
    }  # fmt: skip
    assert facts["training"]["rows"] == {"train": 36, "valid": 4}


def test_estimators_open_the_same_folder(folder: Path) -> None:
    regressor = MolCMIMRegressor.load(folder / "model", "cpu")
    mean, std = regressor.predict(SMILES[:4], return_std=True)
    np.testing.assert_allclose(np.c_[mean, std], PropertyModel.load(folder / "model", "cpu").predict(SMILES[:4]))
    assert regressor.targets_ == ["logP", "double"]
    assert regressor.get_params()["ensemble"] == 2
    table = pd.read_csv(folder / "model" / "predictions.csv").dropna(subset="train_similarity")
    np.testing.assert_allclose(regressor.train_similarity(table["SMILES"]), table["train_similarity"], atol=1e-6)
    assert regressor.nearest_train(table["SMILES"]).tolist() == table["nearest_train"].tolist()
    with pytest.raises(ValueError, match=r"holds a model for regression; use MolCMIMRegressor\.load"):
        MolCMIMClassifier.load(folder / "model")


FRAME = pd.DataFrame(
    {"id": [f"m{i}" for i in range(20)], "SMILES": [*SMILES[:17], "C1CC", "", "C" * 300], "note": "a, b"}
)


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """Predictions, standard deviations, and similarities to the train part."""
    model = PropertyModel.load(folder / "model", "cpu")
    train = pd.read_csv(folder / "model" / "predictions.csv").query("part == 'train'")["SMILES"].tolist()
    near = [max(similarities(s, train)) if i < 17 else np.nan for i, s in enumerate(FRAME["SMILES"])]
    return np.c_[model.predict(FRAME["SMILES"], on_error="nan"), near]


@pytest.mark.parametrize("name", ["in.csv", "in.tsv.gz", "in.parquet", "in.smi"])
@pytest.mark.parametrize("out", ["out.csv", "out.parquet"])
def test_predict_any_file(name: str, out: str, folder: Path, expected: np.ndarray, tmp_path: Path) -> None:
    source = tmp_path / name
    if name == "in.parquet":
        FRAME.to_parquet(source)
    elif name == "in.smi":
        source.write_text(
            "".join(f"{a} {b}\n" if a else "\n" for a, b in zip(FRAME["SMILES"], FRAME["id"], strict=True))
        )
    else:
        text = FRAME.to_csv(index=False, sep="\t" if ".tsv" in name else ",").encode()
        source.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    run = command("predict", folder / "model", source, "-o", tmp_path / out, "--workers", 0, "--chunk-rows", 6)
    assert run.exit_code == 0, run.output
    assert "20 rows, 3 of them bad" in run.stderr
    table = pd.read_csv(tmp_path / out) if out == "out.csv" else pq.read_table(tmp_path / out).to_pandas()
    columns = ["logP_predicted", "double_predicted", "logP_std", "double_std", "train_similarity"]
    np.testing.assert_allclose(table[columns].to_numpy(float), expected, atol=1e-4)
    assert table["error"].dropna().index.tolist() == [17, 18, 19]
    assert table.index[table["nearest_train"].isna()].tolist() == [17, 18, 19]
    assert "the model reads 256 at most" in table["error"][19]
    if name != "in.smi":
        assert table["id"].tolist() == FRAME["id"].tolist()
        assert (table["note"] == "a, b").all()


def test_predict_with_intervals(folder: Path, tmp_path: Path) -> None:
    pd.DataFrame({"smiles": [*SMILES[:3], "C1CC"]}).to_csv(tmp_path / "in.csv", index=False)
    common = ["predict", folder / "model", tmp_path / "in.csv", "-o", tmp_path / "out.csv", "--workers", 0]
    run = command(*common, "--interval", 0.75)  # of the three values that valid has, the largest error
    assert run.exit_code == 0, run.output
    found = pd.read_csv(tmp_path / "out.csv")
    ends = ["logP_low", "double_low", "logP_high", "double_high"]
    columns = [
        "smiles",
        "error",
        "nearest_train",
        "logP_predicted",
        "double_predicted",
        "logP_std",
        "double_std",
        *ends,
    ]
    assert list(found) == [*columns, "train_similarity"]
    expected = MolCMIMRegressor.load(folder / "model", "cpu").predict_interval(SMILES[:3], 0.75)
    np.testing.assert_allclose(found[ends][:3], np.concatenate(expected, axis=1), rtol=1e-5)
    assert found[ends].iloc[3].isna().all()
    run = command(*common, "--interval", 0.9, "--restart")
    assert run.exit_code == 1
    assert "too few for an interval that holds 90%; ask for less" in run.stderr


def test_predict_strict_stdin_and_array(folder: Path, expected: np.ndarray, tmp_path: Path) -> None:
    arguments = ["predict", folder / "model", "-", "--workers", 0, "--strict"]
    run = command(*arguments, "-o", tmp_path / "out.npy", input=FRAME.to_csv(index=False))
    assert run.exit_code == 2
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-4)
    run = command(*arguments, "-o", tmp_path / "good.csv", input=FRAME[:17].to_csv(index=False))
    assert run.exit_code == 0


def test_a_killed_prediction_goes_on(
    folder: Path, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FRAME.to_csv(tmp_path / "in.csv", index=False)
    outputs, done = PropertyModel.outputs, []

    def counted(self: PropertyModel, spelled: Any, progress: bool = False) -> np.ndarray:
        done.append(len(spelled.which))
        if len(done) == 3:
            raise KeyboardInterrupt
        return outputs(self, spelled, progress)

    monkeypatch.setattr(PropertyModel, "outputs", counted)
    arguments = tmp_path / "in.csv", tmp_path / "out.npy", folder / "model"
    with pytest.raises(KeyboardInterrupt):
        bulk.predict_file(*arguments, chunk_rows=5, workers=0)
    assert not (tmp_path / "out.npy").exists()
    assert bulk.predict_file(*arguments, chunk_rows=5, workers=0) == (20, 3, False)
    assert done == [5, 5, 5, 5, 5]  # two, the one cut short, and only what was missing
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-4)


def test_predict_refuses_what_cannot_work(folder: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    FRAME.rename(columns={"note": "logP_std"}).to_csv(tmp_path / "in.csv", index=False)
    run = command("predict", folder / "model", tmp_path / "in.csv", "-o", tmp_path / "out.csv")
    assert run.exit_code == 1
    assert "columns that the output adds: logP_std; rename them first" in run.stderr
    run = command("predict", tiny_checkpoint, tmp_path / "in.csv", "-o", tmp_path / "out.csv")
    assert run.exit_code == 1
    assert "is no fine-tuned model" in run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


def test_finetune_refuses_what_cannot_work(folder: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    def refused(message: str, *arguments: object) -> None:
        run = command("finetune", folder / "data.csv", "--checkpoint", tiny_checkpoint, *arguments)
        assert run.exit_code == 1
        assert message in run.stderr

    refused("no column pKa; the columns present: name, SMILES, logP, double", "--target", "pKa", "-o", tmp_path / "m")
    refused("unknown split 'time'", "--target", "logP", "-o", tmp_path / "m", "--split", "time")
    (tmp_path / "thesis").mkdir()
    refused("is no fine-tuned model; name another folder", "--target", "logP", "-o", tmp_path / "thesis")
    run = command("finetune", folder / "model" / "predictions.csv", "--target", "logP", "-o", tmp_path / "m")
    assert run.exit_code == 1
    assert (
        "that the predictions add: part, logP_predicted, train_similarity, nearest_train; rename them first"
        in run.stderr
    )
    refused("holds a fine-tuned model; name another folder, or replace", "--target", "logP", "-o", folder / "model")
    refused(
        "unknown choice lr; known are embedding, epochs,", "--target", "logP", "-o", tmp_path / "m", "--set", "lr=1"
    )
    refused("epochs must be int, got 'x'", "--target", "logP", "-o", tmp_path / "m", "--set", "epochs=x")
    refused("embedding must be one of", "--target", "logP", "-o", tmp_path / "m", "--embedding", "x")


@pytest.mark.parametrize("labels", [[0, 1], [0.0, 1.0], [False, True], ["brine", "oil"]])
def test_predict_names_classes(labels: list, tiny_checkpoint: Path, tmp_path: Path) -> None:
    y = np.array(labels, object)[(np.array(LOGP) > 1.5).astype(int)]
    options = {"waves": 16, "spellings": 1, "descriptors": False}
    model = MolCMIMClassifier(tiny_checkpoint, epochs=0, predict_spellings=1, options=options).fit(SMILES, y)
    plain = clone(model).fit(SMILES, np.array(LOGP) > 1.5)  # names change no probability
    np.testing.assert_array_equal(model.predict_proba(SMILES), plain.predict_proba(SMILES))
    model.save(tmp_path / "model")
    pd.DataFrame({"smiles": ["C1CC"] * 20 + SMILES}).to_csv(tmp_path / "more.csv", index=False)
    for output in (tmp_path / "out.csv", tmp_path / "out.parquet"):
        run = command("predict", tmp_path / "model", tmp_path / "more.csv", "-o", output, "--chunk-rows", 20,
                      "--workers", 0)  # fmt: skip
        assert run.exit_code == 0, run.output
        found = pd.read_csv(output) if output.suffix == ".csv" else pd.read_parquet(output)
        assert found["y_predicted"][:20].isna().all()  # a chunk without any label
        assert found["y_predicted"][20:].tolist() == model.predict(SMILES).tolist()
        columns = ["y_probability"] if labels == [0, 1] else ["y_probability_brine", "y_probability_oil"]
        assert list(found) == ["smiles", "error", "y_predicted", "nearest_train", *columns, "train_similarity"]
        expected = model.predict_proba(SMILES)[:, -len(columns) :]
        np.testing.assert_allclose(found[columns][20:], expected, rtol=1e-5)
    run = command("predict", tmp_path / "model", tmp_path / "out.csv", "-o", tmp_path / "again.csv")
    assert "columns that the output adds: " in run.output
    assert "y_predicted" in run.output


def test_an_index_of_pandas_moves_no_row(tiny_checkpoint: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"smiles": SMILES, "logP": LOGP})
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "data.parquet")
    run = command("finetune", tmp_path / "data.parquet", "--target", "logP", "--epochs", 0, "--set",
                  "descriptors=false", "--checkpoint", tiny_checkpoint, "-o", tmp_path / "model")  # fmt: skip
    assert run.exit_code == 0, run.output
    found = pd.read_csv(tmp_path / "model" / "predictions.csv")
    assert dict(zip(found["smiles"], found["logP"], strict=True)) == pytest.approx(dict(zip(SMILES, LOGP, strict=True)))
    predicted = PropertyModel.load(tmp_path / "model", "cpu").predict(found["smiles"])[:, 0]
    np.testing.assert_allclose(found["logP_predicted"], predicted, rtol=1e-5)


def test_a_model_is_known_by_more_than_its_weights(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 0, "predict_spellings": 1, "options": {"waves": 16, "spellings": 1, "descriptors": False}}
    models = [
        MolCMIMRegressor(tiny_checkpoint, **{**settings, **more}).fit(SMILES, LOGP)
        for more in ({}, {"standardize": True})
    ]
    pd.DataFrame({"smiles": SMILES}).to_csv(tmp_path / "in.csv", index=False)
    marks = []
    for model in models:
        model.save(tmp_path / "model")
        marks.append(cli_generation._oracle(f"regressor:{tmp_path / 'model'}").fingerprint)
        with monkeypatch.context() as broken:
            broken.setattr(bulk, "_merge", lambda *arguments: 1 / 0)
            with pytest.raises((ZeroDivisionError, ValueError)) as stopped:
                bulk.predict_file(tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "model", workers=0)
    assert json.loads((tmp_path / "model" / "finetuned.json").read_text())["weights_sha256"] == weights_of(models[0])
    assert marks[0] != marks[1]
    assert "unfinished run that differs in record_sha256" in str(stopped.value)


def weights_of(model: MolCMIMRegressor) -> str:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        return json.loads((Path(folder) / "model" / "finetuned.json").read_text())["weights_sha256"]


def test_info_and_an_oracle_of_one_target(folder: Path) -> None:
    said = json.loads(command("info", folder / "model", "--json").stdout)
    assert said["task"]["targets"] == ["logP", "double"]
    assert said["training"]["table"]["file"] == "data.csv"
    assert "history" not in said["training"]
    assert "targets" in command("info", folder / "model").stdout
    regressor = MolCMIMRegressor.load(folder / "model", "cpu")
    oracle = cli_generation._oracle(f"regressor:{folder / 'model'}:double")
    np.testing.assert_allclose(oracle(SMILES[:5]), regressor.predict(SMILES[:5])[:, 1])
    run = command("optimize", "CCO", "--oracle", f"regressor:{folder / 'model'}", "--checkpoint", "molcmim-small")
    assert run.exit_code == 2
    assert "name one of the targets of" in run.stderr
