"""benchmark, report, plots, speed: resumed equals fresh, nothing stale is kept, tables say what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from molcmim import benchmark, datasets, smiles, speed
from molcmim.benchmark import Plan, Table, read_extra, run
from molcmim.cli import app
from molcmim.downstream import fit_head
from molcmim.featurizer import Featurizer
from molcmim.predictors import PREDICTORS, Labelled, Prediction, Predictor

PLAN = {"datasets": ["freesolv"], "heads": ["ridge"], "seeds": 2}


@pytest.fixture(scope="module")
def folder(shared_data: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FreeSolv with ridge on three kinds of features, run by the command."""
    output = tmp_path_factory.mktemp("benchmark") / "out"
    arguments = [
        "benchmark", "property", "-o", str(output), "--checkpoint", str(tiny_checkpoint), "--datasets", "freesolv",
        "--features", "mean,maccs,both+maccs,mean:2+maccs", "--heads", "ridge", "--seeds", "2", "--jobs", "1",
        "--data", str(shared_data / "moleculenet"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (output / "table.md").read_text() in result.stdout
    return output


def results(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv", keep_default_na=False)


def test_every_fit_is_a_row_and_is_what_the_protocol_gives(
    folder: Path, shared_data: Path, tiny_checkpoint: Path
) -> None:
    table = results(folder)
    assert len(table) == 4 * (2 + 1)
    assert not table.duplicated(["split", "seed", "features"]).any()
    data = datasets.load("freesolv", shared_data / "moleculenet")
    maccs = smiles.fingerprints(data.smiles, "maccs")
    featurizer = Featurizer.from_pretrained(tiny_checkpoint)
    both = featurizer.featurize(data.smiles, "both")
    for name, X in {
        "mean": both[:, : featurizer.dim("mean")],
        "maccs": maccs,
        "both+maccs": [both, maccs],
        "mean:2+maccs": [featurizer.featurize(data.smiles, spellings=2), maccs],
    }.items():
        for kind, seed in (("random", 1), ("scaffold", 0)):
            parts = datasets.split(data, kind, seed)
            fit = fit_head("ridge", X, data.y.to_numpy(), parts, seed)
            row = table[(table.features == name) & (table.split == kind) & (table.seed == seed)].iloc[0]
            assert row.test_rmse == pytest.approx(fit.test_rmse, rel=1e-6)
            assert json.loads(row.hyperparameters) == fit.hyperparameters
            dims = sum(part.shape[1] for part in X) if isinstance(X, list) else X.shape[1]
            assert (row.unit, row.dims) == ("kcal/mol", dims)
            written = json.loads((folder / f"splits/freesolv-{kind}-{seed}.json").read_text())
            assert [written[part] for part in ("train", "valid", "test")] == [part.tolist() for part in parts]


def test_what_is_there_is_not_done_again_and_what_is_lost_comes_back_the_same(
    folder: Path, shared_data: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    features = ["mean", "maccs", "both+maccs"]
    plan = Plan(**PLAN, features=features, checkpoints=[str(tiny_checkpoint)], data=shared_data / "moleculenet")
    lost = sorted((copy / "fits").iterdir())[::4]
    for path in lost:
        path.unlink()
    fitted = []
    monkeypatch.setattr(benchmark, "_fit", lambda *a, fit=benchmark._fit: fitted.append(a[0].file) or fit(*a))
    run(plan, copy, jobs=1)
    assert sorted(fitted) == [path.name for path in lost]
    for name in ("results.csv", "table.md", "bars.png", "parity-freesolv-scaffold.png"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes(), name
    fitted.clear()
    run(plan, copy, jobs=1)
    assert not fitted


def test_other_content_is_another_fit(folder: Path, shared_data: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy, data = tmp_path / "copy", tmp_path / "data"
    shutil.copytree(folder, copy)
    data.mkdir()
    text = (shared_data / "moleculenet/freesolv.csv").read_text()
    (data / "freesolv.csv").write_text(text.replace("-11.01", "-11.02"))
    with pytest.warns(UserWarning, match=r"freesolv\.csv does not hold the published freesolv"):
        run(Plan(**PLAN, splits=["scaffold"], features=["maccs"], data=data), copy, jobs=1)
    rows = results(copy).query("features == 'maccs' and split == 'scaffold'")
    assert rows.features_id.nunique() == 2
    assert rows.dataset.tolist() == [f"freesolv [{content[:12]}]" for content in rows.content]
    said = (copy / "table.md").read_text()
    assert "Not the published set" in said
    assert all(f"| {name} scaffold (kcal/mol) |" in said for name in rows.dataset)


def test_another_column_or_unit_of_a_file_of_ones_own(tmp_path: Path) -> None:
    path, output = tmp_path / "own.csv", tmp_path / "out"
    frame = pd.DataFrame({"smiles": ["C" * n for n in range(1, 31)], "y": range(30), "z": np.arange(30) ** 2})
    frame.to_csv(path, index=False)

    def header(rows: int, target: str, unit: str) -> str:
        frame[:rows].to_csv(path, index=False)
        plan = Plan([], ["random"], ["maccs"], ["ridge"], seeds=1, tables=[Table(path, target, unit=unit)])
        run(plan, output, jobs=1)
        return next(line for line in (output / "table.md").read_text().splitlines() if "| head |" in line)

    assert header(30, "y", "") == "| features | head | own random (units of y) |"
    assert header(30, "y", "km") == "| features | head | own random (km) |"
    assert header(30, "z", "km2").count("own [") == 2
    assert header(20, "y", "km").count("own [") == 3
    table = results(output)
    assert len(table) == table.dataset.nunique() == 3  # never in one column, where they would be compared


def test_table_says_mean_sd_interval_and_choice_by_valid(folder: Path) -> None:
    table = results(folder)
    lines = (folder / "table.md").read_text().splitlines()
    assert "| features | head | freesolv random (kcal/mol) | freesolv scaffold (kcal/mol) |" in lines
    maccs = table[table.features == "maccs"]
    random, scaffold = (maccs[maccs.split == kind] for kind in ("random", "scaffold"))
    row = next(line for line in lines if line.startswith("| maccs | ridge |")).replace("**", "")
    assert f"| {random.test_rmse.mean():.3f} ± {random.test_rmse.std(ddof=0):.3f} |" in row
    one = scaffold.iloc[0]
    assert f"| {one.test_rmse:.3f} [{one.test_rmse_low:.2f}, {one.test_rmse_high:.2f}] |" in row
    ours = table[(table.model == "tiny") & (table.split == "scaffold")]
    chosen = ours.loc[ours.valid_rmse.idxmin()]
    line = next(line for line in lines if "ours, chosen by valid RMSE" in line)
    assert f"{chosen.test_rmse:.3f}" in line
    assert f": {chosen.features}, ridge |" in line
    first = lines[: lines.index("", 2)]
    assert sum(line.count("**") for line in first) == 4  # one bold figure a column


def test_features_of_others(tmp_path: Path, shared_data: Path, folder: Path) -> None:
    data = datasets.load("freesolv", shared_data / "moleculenet")
    mine = pd.DataFrame({"smiles": data.smiles[::-1], "note": "x", "a": np.arange(642.0)[::-1], "b": 1.5})
    mine.to_csv(tmp_path / "mine.csv", index=False)
    X = read_extra(tmp_path / "mine.csv", data.smiles)
    np.testing.assert_array_equal(X, np.c_[np.arange(642.0), np.full(642, 1.5)])
    plan = Plan(
        **PLAN, splits=["scaffold"], features=["mine+maccs"], data=shared_data / "moleculenet",
        extra=[tmp_path / "mine.csv"],
    )  # fmt: skip
    assert run(plan, tmp_path / "out", jobs=1).dims.tolist() == [2 + 167]
    mine[:-1].to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(ValueError, match=r"mine\.parquet: 1 molecules of the data set are not in it, such as COc1"):
        read_extra(tmp_path / "mine.parquet", data.smiles)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="unknown features ecfp; known are mean, informative, both, descriptors, morgan, rdkit2d"
    ):
        Plan(features=["mean", "both+ecfp"])
    for features in ("mean:x", "maccs:2", "mean:0"):
        with pytest.raises(ValueError, match=f"'{features}' is no embedding of several spellings, such as both:9"):
            Plan(features=[features])
    with pytest.raises(ValueError, match="unknown head lasso; known are ridge, svr, kernel, mlp, forest"):
        Plan(heads=["lasso"])
    with pytest.raises(ValueError, match="unknown predictor grover; known are finetuned, chemprop, dmpnn, graphconv"):
        Plan(predictors=["grover"])
    with pytest.raises(ValueError, match="maccs is a name of ours; rename that table"):
        Plan(extra=["a/maccs.csv"])
    for empty in ({"datasets": []}, {"splits": []}, {"features": []}, {"heads": []}):
        with pytest.raises(ValueError, match="nothing to compare: name data sets"):
            Plan(**empty)
    with pytest.raises(ValueError, match="two of the checkpoints have one name"):
        Plan(checkpoints=["a/small", "b/small"])


def test_predictors_stand_in_the_same_table_and_are_known_by_what_they_depend_on(
    folder: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def mean(train: Labelled, valid: Labelled, test: list[str], seed: int, checkpoint: str) -> Prediction:
        fitted.append((len(train.y), len(valid.y), len(test), seed, checkpoint))
        value = train.y.mean()
        return Prediction({"value": value}, np.full(len(valid.y), value), np.full(len(test), value))

    settings = {"a": 1}
    known = Predictor(mean, ("rdkit",), "mean", lambda: settings)
    monkeypatch.setitem(PREDICTORS, "guess", known)
    copy, plan = tmp_path / "copy", Plan(**PLAN, features=[], predictors=["guess"], data=shared_data / "moleculenet")
    shutil.copytree(folder, copy)
    rows = run(plan, copy, jobs=1).query("features == 'guess'")
    assert fitted == [(513, 64, 65, 0, ""), (513, 64, 65, 1, ""), (513, 64, 65, 0, "")]
    np.testing.assert_allclose(rows.test_rmse, rows.test_rmse_of_mean)
    assert set(rows["head"]) == {"end-to-end"}
    assert "| guess | end-to-end |" in (copy / "table.md").read_text()
    run(plan, copy, jobs=1)
    assert len(fitted) == 3
    settings["a"] = 2
    assert len(run(plan, copy, jobs=1).query("features == 'guess'")) == len(fitted) == 6
    monkeypatch.setitem(PREDICTORS, "guess", known._replace(packages=("no-such-package",)))
    with pytest.raises(ImportError, match="guess needs no-such-package, which is not installed: pip install 'mean'"):
        Plan(predictors=["guess"])


def test_a_table_of_ones_own(shared_data: Path, tmp_path: Path) -> None:
    data = datasets.load("freesolv", shared_data / "moleculenet")[:200]
    data.rename(columns={"smiles": "structure", "y": "dG"}).assign(id="x").to_csv(tmp_path / "mine.csv", index=False)
    arguments = [
        "benchmark", "property", "-o", str(tmp_path / "out"), "--csv", str(tmp_path / "mine.csv"), "--target", "dG",
        "--column", "structure", "--features", "maccs", "--heads", "ridge", "--seeds", "2", "--jobs", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "| features | head | mine random (units of dG) | mine scaffold (units of dG) |" in result.stdout
    row = results(tmp_path / "out").query("split == 'random' and seed == 1").iloc[0]
    X, y = smiles.fingerprints(data.smiles, "maccs"), data.y.to_numpy()
    assert row.test_rmse == pytest.approx(fit_head("ridge", X, y, datasets.split(data, "random", 1), 1).test_rmse)
    data.assign(y=["", *data.y[1:]]).to_csv(tmp_path / "mine.csv", index=False)
    table = Table(tmp_path / "mine.csv", "y", unit="kcal/mol")
    with pytest.raises(ValueError, match=r"mine\.csv: no y in 1 row\(s\), 0: leave them out"):
        Plan(datasets=[], tables=[table]).load()
    pd.DataFrame({"smiles": ["C", "C1CC", "CC", ""], "y": range(4)}).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(ValueError, match=r"mine\.csv: 2 molecule\(s\) cannot be read, row 1: unclosed ring; row 3: em"):
        Plan(datasets=[], tables=[table]).load()
    with pytest.raises(ValueError, match="esol is the name of more than one data set"):
        Plan(tables=[table._replace(path=Path("esol.csv"))])


def test_speed_times_all_and_compares_with_mean(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"one": {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}}
    monkeypatch.setattr(speed, "SHAPES", shapes)
    featurizer = Featurizer.from_pretrained(tiny_checkpoint, "cpu")
    measured = speed.measure(featurizer, ["CCO", "c1ccccc1", "CC(=O)O"], [1], repeats=1)
    assert measured.contender.tolist() == ["mean", "mean, bfloat16", "informative", "RDKit 2D descriptors", "one"]
    rate = measured.set_index("contender").molecules_per_second
    np.testing.assert_allclose(measured.mean_is_faster_by, (rate["mean"] / rate).to_numpy())
    np.testing.assert_allclose(measured.molecules_per_second * measured.seconds, 3)
    assert "| mean | " in speed.markdown(measured)


def test_a_fresh_encoder_sees_each_molecule_alone(tiny_checkpoint: Path) -> None:
    shape = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    embed = speed._fresh(shape, Featurizer.from_pretrained(tiny_checkpoint, "cpu"))
    molecules = ["CCO", "c1ccccc1C(=O)NC", "C", "OCC"]
    together = embed(molecules)
    assert together.shape == (4, 32)
    np.testing.assert_allclose(together, np.concatenate([embed([one]) for one in molecules]), atol=1e-5)
