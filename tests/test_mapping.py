"""mapping, and the command that draws it: layouts against scikit-learn, neighbours kept, every row in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from molcmim import datasets, mapping, plots
from molcmim.cli import app
from molcmim.featurizer import Featurizer


def test_pca_is_scikit_learns_and_tsne_keeps_groups_together() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 20)
    X = 10 * rng.normal(size=(3, 60))[group] + rng.normal(size=(60, 60))
    plane, axes = mapping.layout(X, "pca")
    ours, theirs = plane[:, 0], PCA(2).fit_transform(X)[:, 0]
    np.testing.assert_allclose(ours * np.sign(ours @ theirs), theirs, rtol=1e-6)
    assert axes[0].startswith("PC 1 (")
    plane, _ = mapping.layout(X, random_state=1)
    np.testing.assert_array_equal(mapping.layout(X, random_state=1)[0], plane)
    distance = np.linalg.norm(plane[:, None] - plane[None], axis=2) + 1e9 * np.eye(60)
    assert (group[distance.argmin(1)] == group).all()
    with pytest.raises(ValueError, match="unknown method 'umap'; known are tsne, pca"):
        mapping.layout(X, "umap")
    with pytest.raises(ValueError, match="at least 4 molecules that can be embedded; there are 3"):
        mapping.layout(X[:3])


def test_one_point_is_no_map() -> None:
    with pytest.raises(ValueError, match="all 5 molecules have one embedding"):
        mapping.layout(np.ones((5, 3)))


def test_every_row_is_in_the_table_and_a_bad_one_says_why(
    tiny_checkpoint: Path, shared_data: Path, tmp_path: Path
) -> None:
    data = datasets.load("freesolv", shared_data / "moleculenet")[:40].rename(columns={"y": "dG"})
    data.loc[3, "smiles"], data.loc[5, "dG"] = "C1CC", np.nan
    data.to_csv(tmp_path / "mine.csv", index=False)
    output = tmp_path / "map.parquet"
    arguments = [
        "map", str(tmp_path / "mine.csv"), "-o", str(output), "--color", "dG", "--unit", "kcal/mol", "--method", "pca",
        "--checkpoint", str(tiny_checkpoint), "--strict",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert "40 rows, 1 of them bad" in result.stderr
    found = pd.read_parquet(output)
    pd.testing.assert_frame_equal(found[["smiles", "dG"]], data)
    assert found.error[3].startswith("unclosed ring")
    assert found[["map_1", "map_2"]].isna().all(axis=1).tolist() == (found.error != "").tolist()
    good = found.drop(index=3)
    X = Featurizer.from_pretrained(tiny_checkpoint).featurize(good.smiles)
    expected, _ = mapping.layout(X, "pca")
    np.testing.assert_allclose(good[["map_1", "map_2"]], expected, atol=1e-4)
    assert (tmp_path / "map.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_colours_and_what_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: kept.append(figure))
    points, values = np.arange(400.0).reshape(200, 2), np.r_[np.arange(199.0), np.nan]
    plots.plane(points, values, "a title", ("a", "b"), "value (unit)", tmp_path / "x.png")
    axes, bar = kept[0].axes
    grey, colored = axes.collections
    np.testing.assert_array_equal(grey.get_offsets(), points[-1:])
    np.testing.assert_array_equal(colored.get_array(), values[:-1])
    assert colored.get_clim() == pytest.approx(tuple(np.quantile(values[:-1], [0.02, 0.98])))
    assert (axes.get_title(), bar.get_ylabel()) == ("a title", "value (unit)")
    kinds = np.array(["acid"] * 40 + ["base"] * 150 + [None] * 10, object)
    plots.plane(points, kinds, "a title", ("a", "b"), "kind", tmp_path / "x.png")
    grey, base, acid = kept[1].axes[0].collections
    for drawn, rows in ((grey, slice(190, None)), (base, slice(40, 190)), (acid, slice(40))):
        np.testing.assert_array_equal(drawn.get_offsets(), points[rows])
    assert len({tuple(drawn.get_facecolor()[0]) for drawn in (grey, base, acid)}) == 3
    (legend,) = kept[1].legends
    assert [text.get_text() for text in legend.get_texts()] == ["no value", "base (150)", "acid (40)"]
    assert legend.get_title().get_text() == "kind"


def test_what_featurize_wrote_is_mapped_without_its_vectors(tiny_checkpoint: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"smiles": ["C" * n for n in range(2, 12)], "y": ["1", "<2", *"3456789", "10"]})
    frame.to_csv(tmp_path / "in.csv", index=False)
    common = ["--checkpoint", str(tiny_checkpoint)]
    written = str(tmp_path / "both.parquet")
    done = CliRunner().invoke(app, ["featurize", str(tmp_path / "in.csv"), "-o", written, *common])
    assert done.exit_code == 0, done.output
    output = str(tmp_path / "map.csv")
    done = CliRunner().invoke(app, ["map", written, "-o", output, "--color", "y", "--method", "pca", *common])
    assert done.exit_code == 0, done.output
    found = pd.read_csv(output)
    assert list(found) == ["smiles", "y", "map_1", "map_2", "error"]
    assert found["y"].isna().to_numpy().nonzero()[0].tolist() == [1]  # <2 is no number, and has no colour
    frame.assign(tags=[f"x{n}" for n in range(10)]).to_csv(tmp_path / "in.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "CATEGORIES", 9)
        done = CliRunner().invoke(app, ["map", str(tmp_path / "in.csv"), "-o", output, "--color", "tags", *common])
    assert "tags holds 10 different texts, such as 'x0'; numbers, or up to 9 labels" in done.stderr


def test_no_label_is_hidden_or_read_as_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: figures.append(figure))
    values = pd.Series(["_neg", "$a_b", "a$ and b$"] * 4, dtype=object)
    plots.plane(np.arange(24.0).reshape(12, 2), values, r"bad $\foo$", ("x", "y"), "$y", tmp_path / "x.png")
    figures[0].draw_without_rendering()
    (legend,) = figures[0].legends
    assert sorted(text.get_text().strip() for text in legend.get_texts()) == [
        r"\$a_b (4)", "_neg (4)", r"a\$ and b\$ (4)"
    ]  # fmt: skip


def test_labels_colour_and_columns_of_the_map_are_not_taken(tiny_checkpoint: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"smiles": ["CCO", "CCC", "c1ccccc1", "CCN", "CCCl"], "kind": ["a", "b", "a", "", "b"]})
    table.assign(error=range(5), many=[f">{i}" for i in range(5)]).to_csv(tmp_path / "t.csv", index=False)
    common = ["map", tmp_path / "t.csv", "-o", tmp_path / "m.csv", "--method", "pca", "--checkpoint", tiny_checkpoint]

    def run(*more: str) -> str:
        return CliRunner().invoke(app, [*map(str, common), *more]).stderr

    assert "5 rows, 0 of them bad" in run("--color", "kind")
    assert pd.read_csv(tmp_path / "m.csv")["kind"].fillna("").tolist() == table["kind"].tolist()
    assert pd.read_csv(tmp_path / "m.csv").columns.tolist() == [
        "smiles", "kind", "input_error", "many", "map_1", "map_2", "error"
    ]  # fmt: skip
    assert "5 rows" in run("--color", "many")
    assert "5 rows" in run()  # all alike
    table = pd.concat([table] * 5).assign(many=[f">{i}" for i in range(25)], map_2=0)
    table.to_csv(tmp_path / "t.csv", index=False)
    assert "many holds 25 different texts, such as '>0'; numbers, or up to 10 labels, have colours" in run(
        "--color", "many"
    )
    assert "has columns that a map adds: map_2; rename them first" in run()
