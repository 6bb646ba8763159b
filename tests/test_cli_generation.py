"""Commands that write molecules: their files are what the functions return, and bad input is one line."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from stores import known
from typer.testing import CliRunner

from molcmim import checkpoint
from molcmim.cli import app
from molcmim.embedding_files import read_embeddings
from molcmim.generation import interpolate, sample

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = known()
    return checkpoint.write(model.model, model.tokenizer, tmp_path_factory.mktemp("generation") / "known", {})


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_command_sample(folder, tmp_path):
    done = run(
        "sample", "CCO", "c1ccccc1", "-n", 5, "--radius", 1, "-o", tmp_path / "s.parquet", "--checkpoint", folder
    )
    assert done.exit_code == 0, done.output
    frame = pd.read_parquet(tmp_path / "s.parquet")
    expected = sample(["CCO", "c1ccccc1"], 5, checkpoint=folder)
    assert_frame_equal(frame, expected, check_dtype=False)
    assert frame.attrs == expected.attrs
    assert "10 rows" in done.stderr
    assert "10 draws: " in done.stderr
    assert png_size(tmp_path / "s.png") == (6 * 260, 2 * 220)  # ten molecules and two seeds
    done = run("sample", "CCO", "-n", 3, "--radius", 0, "--unique", "--max-draws", 4, "--checkpoint", folder)
    assert done.exit_code == 2
    assert done.stdout.splitlines()[0] == "seed,draw,smiles,valid,canonical,log_prob,error,similarity"
    assert len(done.stdout.splitlines()) == 2
    assert "only 1 of 3 molecules" in done.stderr


def test_command_interpolate_draws_a_strip(folder, tmp_path):
    done = run("interpolate", ASPIRIN, "CCO", "--steps", 4, "--path", "spherical", "-o", tmp_path / "i.csv",
               "--checkpoint", folder)  # fmt: skip
    assert done.exit_code == 0, done.output
    frame = pd.read_csv(tmp_path / "i.csv")
    assert list(frame["smiles"]) == list(interpolate(ASPIRIN, "CCO", 4, path="spherical", checkpoint=folder)["smiles"])
    assert png_size(tmp_path / "i.png") == (4 * 260, 220)
    said = [
        f"{end} is decoded as {frame['smiles'].iloc[row]}; --decoding nearest"
        for end, row in ((ASPIRIN, 0), ("CCO", -1))
    ]
    back = [frame["canonical"].iloc[0] == ASPIRIN, frame["canonical"].iloc[-1] == "CCO"]
    assert [text in done.stderr for text in said] == [not came for came in back]
    assert not all(back)


def test_commands_on_files(folder, tmp_path, monkeypatch):
    table = tmp_path / "molecules.csv"
    table.write_text("name,smiles\nethanol,OCC\nbroken,C1CC\nbenzene,c1ccccc1\n")
    done = run("reconstruct", table, "-o", tmp_path / "r.csv", "--no-picture", "--checkpoint", folder)
    assert done.exit_code == 0, done.output
    frame = pd.read_csv(tmp_path / "r.csv")
    assert list(frame["input"]) == ["CCO", "C1CC", "c1ccccc1"]
    assert frame["error"][1] == "unclosed ring"
    assert "1 bad rows" in done.stderr
    assert not (tmp_path / "r.png").exists()
    assert run("reconstruct", table, "--strict", "--checkpoint", folder).exit_code == 2
    assert run("featurize", table, "-o", tmp_path / "e.parquet", "--checkpoint", folder).exit_code == 0
    np.save(tmp_path / "e.npy", pd.read_parquet(tmp_path / "e.parquet")["embedding"].tolist())
    for codes in ("e.parquet", "e.npy"):
        done = run("decode", tmp_path / codes, "-o", tmp_path / "d.tsv", "--checkpoint", folder)
        assert done.exit_code == 0, done.output
        decoded = pd.read_csv(tmp_path / "d.tsv", sep="\t")
        assert decoded["smiles"].fillna("").tolist() == frame["smiles"].fillna("").tolist()
        assert decoded["error"][1] == "the code is not finite"
        assert png_size(tmp_path / "d.png") == (2 * 260, 220)
    done = run("neighbours", "CCO", table, "-k", 5, "-o", tmp_path / "n.csv", "--checkpoint", folder)
    assert done.exit_code == 0, done.output
    found = pd.read_csv(tmp_path / "n.csv")
    assert (found["row"].tolist(), found["name"].tolist()) == ([0, 2], ["ethanol", "benzene"])
    assert "3 rows, 1 of them bad and left out" in done.stderr
    assert png_size(tmp_path / "n.png") == (3 * 260, 220)
    done = run("neighbours", table, table, "-k", 1, "-o", tmp_path / "all.csv", "--checkpoint", folder)
    assert "1 row(s) are left out; the first: row 1, unclosed ring" in done.stderr
    every = pd.read_csv(tmp_path / "all.csv")
    assert (every["query"].tolist(), every["row"].tolist()) == (["CCO", "c1ccccc1"], [0, 2])
    assert (every["query_row"].tolist(), every["query_name"].tolist()) == ([0, 2], ["ethanol", "benzene"])
    assert png_size(tmp_path / "all.png") == (4 * 260, 220)
    long = run("neighbours", "C" * 600, table, "-o", tmp_path / "n.csv", "--checkpoint", folder)
    assert "602 tokens" in long.stderr
    run("neighbours", "CCO", tmp_path / "e.parquet", "-o", tmp_path / "m.csv", "--checkpoint", folder)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "m.csv"), found, atol=1e-5)
    with monkeypatch.context() as patch:  # with other numbers in their place, these are believed
        patch.setattr("molcmim.embedding_files.read_embeddings", lambda path: np.full((3, 32), [[1], [np.nan], [2]]))
        done = run("neighbours", "CCO", tmp_path / "e.parquet", "-o", tmp_path / "m.csv", "--checkpoint", folder)
        assert done.exit_code == 0, done.output
    assert pd.read_csv(tmp_path / "m.csv")["cosine"].nunique() == 1
    done = run("neighbours", "CCO", tmp_path / "e.parquet", "--checkpoint", "molcmim-small")
    assert "are others than are asked for (weights_sha256); it is embedded anew" in done.stderr


def test_embeddings_of_another_column_are_not_taken(folder, tmp_path):
    table = tmp_path / "two.csv"
    table.write_text("smiles,parent_smiles\nCCO,c1ccccc1\nc1ccccc1,CCO\nCCN,CCC\n")
    for options, differs in (
        (["--column", "parent_smiles"], "read_from"),
        (["--no-canonicalize"], "canonicalize"),
        (["--standardize"], "standardize"),
    ):
        done = run("featurize", table, "-o", tmp_path / "lib.parquet", "--restart", *options, "--checkpoint", folder)
        assert done.exit_code == 0, done.output
        done = run("neighbours", "CCO", tmp_path / "lib.parquet", "-k", 1, "--checkpoint", folder)
        assert f"are others than are asked for ({differs}); it is embedded anew" in done.stderr
        nearest = pd.read_csv(io.StringIO(done.stdout)).iloc[0]
        assert (nearest["row"], nearest["smiles"], nearest["cosine"]) == (0, "CCO", pytest.approx(1))
    run("featurize", table, "-o", tmp_path / "p.parquet", "--column", "parent_smiles", "--checkpoint", folder)
    done = run("neighbours", "CCO", tmp_path / "p.parquet", "--column", "parent_smiles", "--checkpoint", folder)
    assert "anew" not in done.stderr
    nearest = pd.read_csv(io.StringIO(done.stdout)).iloc[0]
    assert (nearest["row"], nearest["smiles"], nearest["cosine"]) == (1, "CCO", pytest.approx(1))


def test_an_input_is_not_written_over(folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("smiles,y\nCCO,1\n")
    codes = tmp_path / "e.parquet"
    assert run("featurize", table, "-o", codes, "--checkpoint", folder).exit_code == 0
    held = table.read_bytes(), codes.read_bytes()
    for arguments in (
        ["reconstruct", table, "-o", table], ["neighbours", "CCO", table, "-o", table], ["decode", codes, "-o", codes],
        ["optimize", "--input", table, "-o", table], ["map", table, "--color", "y", "-o", table],
    ):  # fmt: skip
        done = run(*arguments, "--checkpoint", folder)
        assert done.exit_code == 2
        assert "is the input; name another file" in " ".join(done.stderr.replace("│", "").split())
    assert (table.read_bytes(), codes.read_bytes()) == held


def test_seeds_that_cannot_be_read_are_left_out(folder, tmp_path):
    (tmp_path / "seeds.csv").write_text("smiles\nC1CC\nCCO\nCCN\n")
    done = run("optimize", "-i", tmp_path / "seeds.csv", "--calls", "3", "--must-not-have", ".", "-o",
               tmp_path / "o.csv", "--no-picture", "--checkpoint", folder)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "seeds.csv: 1 row(s) are left out; the first: row 0, unclosed ring" in done.stderr
    assert set(pd.read_csv(tmp_path / "o.csv")["seed"]) == {"CCO", "CCN"}


def test_what_is_wrong_with_an_oracle_is_said(folder, tmp_path):
    (tmp_path / "mine.py").write_text("def score(molecules):\n    return [\n")
    done = run("optimize", "CCO", "--oracle", f"{tmp_path / 'mine.py'}:score", "--checkpoint", folder)
    assert done.exit_code == 1
    assert "mine.py, line 2: SyntaxError: '[' was never closed" in done.stderr
    (tmp_path / "mine.py").write_text("import nothing_of_this_name")
    done = run("optimize", "CCO", "--oracle", f"{tmp_path / 'mine.py'}:score", "--checkpoint", folder)
    assert "mine.py: ModuleNotFoundError: No module named 'nothing_of_this_name'" in done.stderr


def test_nothing_is_no_picture(folder, tmp_path):
    done = run("sample", "CCO", "-n", "1", "--must-have", "[Pt]", "-o", tmp_path / "s.csv", "--checkpoint", folder)
    assert done.exit_code == 2
    assert ".png" not in done.stderr
    assert not (tmp_path / "s.png").exists()


def test_a_log_goes_only_when_there_is_another(folder, tmp_path):
    log, output = tmp_path / "o.log.parquet", tmp_path / "o.csv"
    log.write_text("precious")
    done = run("optimize", "CCO", "--oracle", "qde", "-o", output, "--restart", "--checkpoint", folder)
    assert "unknown oracle 'qde'" in done.stderr
    assert log.read_text() == "precious"
    command = ["optimize", "CCO", "--calls", 3, "-o", output, "--no-picture", "--checkpoint", folder]
    assert "no log of an optimisation" in run(*command).stderr
    done = run(*command, "--restart")
    assert done.exit_code == 0, done.output
    assert len(pd.read_parquet(log)) > 1


def test_files_without_codes_are_refused(tmp_path):
    for name, values in (("flat", np.zeros(3)), ("whole", np.zeros((2, 3), int)), ("text", np.array([["a"]]))):
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(ValueError, match=rf"{name}.npy: no embeddings, which have shape \(n, d\), but"):
            read_embeddings(tmp_path / f"{name}.npy")
    pd.DataFrame({"smiles": ["C"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t.parquet: no Parquet file with a column 'embedding'"):
        read_embeddings(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match=r"t.parquet: no Parquet file"):
        read_embeddings(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sample", "C1CC"], 1, "molcmim: 1 bad molecule"),
        (["sample", "CCO", "--radius", "-1"], 1, "molcmim: scaled_radius must be at least 0"),
        (["sample", "CCO", "-o", "x.txt"], 2, "known"),
        (["sample", "CCO", "-o", "nowhere/x.csv"], 2, "no folder nowhere"),
        (["decode", __file__], 1, "cannot read embeddings from '.py'"),
        (["neighbours", "CCO", "nowhere.smi"], 1, "molcmim: nowhere.smi: No such file"),
    ],
)
def test_commands_end_with_one_line_on_bad_input(folder, arguments, code, message):
    done = run(*arguments, "--checkpoint", folder)
    assert done.exit_code == code
    assert message in done.stderr
