"""The benchmark of generation: complete, resumable, and blind to nothing that a figure depends on."""

from __future__ import annotations

import dataclasses
import json
import math

import chains
import pandas as pd
import pytest
from stores import MOLECULES, write_store
from typer.testing import CliRunner

from molcmim import benchmark_generation as bench
from molcmim.benchmark_generation import Sizes, corpus_chunks, run
from molcmim.cli import app
from molcmim.merit import Figure
from molcmim.space import Space

TINY = Sizes(6, (0.5, 1.0), 3, 4, 12, 2, 3, 3, 4, 4, 2, 2, 8)
CANONICAL = [canonical for canonical, _ in MOLECULES]


@pytest.fixture(autouse=True)
def decoded(monkeypatch):
    """Decode by chains; return how many codes were decoded, call by call."""
    calls = []

    def decode(space, z, *rest):
        calls.append(len(z))
        return chains.decode(space, z, *rest)

    monkeypatch.setattr(Space, "decode", decode)
    return calls


@pytest.fixture
def held_out(tmp_path):
    path = tmp_path / "held_out.smi"
    path.write_text("\n".join([*CANONICAL, "C1CC", CANONICAL[0]]) + "\n")
    return path


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.smi"
    path.write_text("\n".join(["CCO", "CCN", "CCCCCCCCCCC"]) + "\n")
    return path


def test_everything_is_measured_once(tiny_checkpoint, held_out, corpus, tmp_path, decoded) -> None:
    said: list[str] = []
    output = tmp_path / "results"
    table = run(tiny_checkpoint, held_out, output, [corpus], held_out, TINY, said.append)
    parts = ["reconstruction", "radius", "prior", "interpolation", "likelihood", "throughput", "qed"]
    assert list(table["part"].unique()) == parts
    assert len(said) == 6 + 3
    names = set(zip(table["part"], table["setting"], table["name"], strict=True))
    for radius in ("radius 0.5", "radius 1"):
        for name in ("valid", "unique", "not the seed", "novel", "effective novelty", "similarity"):
            assert ("radius", radius, name) in names
    assert {("throughput", "cached", "molecules/s"), ("throughput", "uncached", "molecules/s")} < names
    assert {setting for part, setting, _ in names if part == "qed"} == {"cma", "perturbation", "best-of-n"}
    assert (table["n"] > 0).all()
    for name in ("similarity", "prior", "interpolation", "qed"):
        assert (output / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    written = json.loads((output / "figures.json").read_text())
    assert [figure["name"] for figure in written["figures"]] == list(table["name"])
    assert pd.read_csv(output / "figures.csv").shape == table.shape
    assert len((output / "table.md").read_text().splitlines()) == 2 + len(table)

    decoded.clear()
    said.clear()
    pd.testing.assert_frame_equal(run(tiny_checkpoint, held_out, output, [corpus], held_out, TINY, said.append), table)
    assert not decoded
    assert all(line.startswith("qed") for line in said)

    (next((output / "parts").glob("interpolation-*"))).unlink()
    run(tiny_checkpoint, held_out, output, [corpus], held_out, TINY, said.append)
    assert decoded == [3] * 4  # two ways by two paths, three codes each
    decoded.clear()
    corpus.write_text("CCO\n")
    said.clear()
    run(tiny_checkpoint, held_out, output, [corpus], None, dataclasses.replace(TINY, qed_seeds=0), said.append)
    assert [line.split(":")[0] for line in said] == ["radius", "prior"]  # what looks at the corpus


def test_some_parts_by_another_decoding(tiny_checkpoint, held_out, tmp_path, monkeypatch) -> None:
    asked, said = [], []

    def decode(space, z, decoding, rng):
        asked.append(decoding)
        return chains.decode(space, z, decoding, rng)

    monkeypatch.setattr(Space, "decode", decode)
    sizes = dataclasses.replace(TINY, qed_seeds=0)
    chosen = ["interpolation", "reconstruction"]
    first = run(
        tiny_checkpoint, held_out, tmp_path / "r", sizes=sizes, say=said.append, parts=chosen, decoding="valid:3"
    )
    assert set(first["part"]) == set(chosen)
    assert set(asked) == {"valid:3"}
    assert json.loads((tmp_path / "r" / "figures.json").read_text())["decoding"] == "valid:3"
    asked.clear()
    run(tiny_checkpoint, held_out, tmp_path / "r", sizes=sizes, say=said.append, decoding="valid:3")
    done = [line.split(":")[0] for line in said]
    assert done == ["reconstruction", "interpolation", "radius", "prior", "likelihood", "throughput"]
    assert "valid:3" in asked
    asked.clear()
    again = run(tiny_checkpoint, held_out, tmp_path / "r", sizes=sizes, parts=["reconstruction"], decoding="valid:3")
    assert not asked
    assert set(again["part"]) == set(done)  # what is there already stays in the table
    run(tiny_checkpoint, held_out, tmp_path / "r", sizes=sizes, say=said.append)
    assert [line.split(":")[0] for line in said[6:]] == ["reconstruction", "radius", "prior", "interpolation"]
    said.clear()
    run(tiny_checkpoint, held_out, tmp_path / "q", (), held_out, TINY, said.append, parts=["qed"])
    assert all(line.startswith("qed") for line in said)
    others = tmp_path / "others.smi"
    others.write_text("".join(f"{molecule}\n" for molecule in reversed(CANONICAL)))
    run(tiny_checkpoint, held_out, tmp_path / "q", (), others, TINY, parts=["qed"])
    assert len(list((tmp_path / "q" / "parts").glob("qed-cma-*"))) == 2
    for arguments, message in (
        ({"parts": ["radii"]}, "parts must be among reconstruction, .*, qed, got radii"),
        ({"parts": ["qed"]}, "the QED task needs a file of seeds"),
        ({"decoding": "best"}, "decoding must be"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tiny_checkpoint, held_out, tmp_path / "never", sizes=sizes, **arguments)
    assert not (tmp_path / "never").exists()


def test_without_a_corpus_nothing_is_said_of_it(tiny_checkpoint, held_out, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "PARTS", {name: bench.PARTS[name] for name in ("radius", "prior")})
    table = run(tiny_checkpoint, held_out, tmp_path / "results", sizes=dataclasses.replace(TINY, qed_seeds=0))
    assert not table["name"].str.contains("novel|corpus").any()


def test_nothing_valid_and_nothing_readable(tiny_checkpoint, held_out, tmp_path, monkeypatch) -> None:
    def decode(space, z, decoding, rng):
        frame = chains.decode(space, z, decoding, rng)
        return frame.assign(valid=False, canonical=None)

    monkeypatch.setattr(Space, "decode", decode)
    name = tmp_path / "NaN.smi"
    name.write_text(held_out.read_text())
    for _ in range(2):  # the second draws what the first has kept
        table = run(tiny_checkpoint, name, tmp_path / "r", sizes=TINY, parts=["prior"])
    assert table.set_index("name")["value"]["valid"] == 0
    assert not (tmp_path / "r" / "prior.png").exists()
    written = json.loads((tmp_path / "r" / "figures.json").read_text())
    assert written["held_out"] == "NaN.smi"
    name.write_text("C1CC\nnope\n")
    with pytest.raises(ValueError, match=r"NaN\.smi holds 0 different molecule\(s\) that the model can read; 8 are"):
        run(tiny_checkpoint, name, tmp_path / "r", sizes=TINY, parts=["reconstruction"])


def test_a_corpus_is_read_from_a_store_or_a_file(tiny_checkpoint, held_out, tmp_path) -> None:
    space = Space(tiny_checkpoint)
    store = write_store(tmp_path / "store")
    read = [molecule for chunk in corpus_chunks(store, space) for molecule in chunk]
    assert read == CANONICAL
    (tmp_path / "odd.smi").write_text("OCC\nCCO\n")
    with pytest.raises(ValueError, match=r"odd.smi: 1 of the first 2 SMILES are not canonical, such as OCC"):
        list(corpus_chunks(tmp_path / "odd.smi", space))
    foreign = write_store(tmp_path / "foreign", vocab_hash="0" * 64)
    with pytest.raises(ValueError, match="a store in smiles of another vocabulary"):
        list(corpus_chunks(foreign, space))


def test_held_out_molecules_are_canonical_and_different(tiny_checkpoint, held_out) -> None:
    found, again = (
        bench.Bench(tiny_checkpoint, held_out, [], None, Sizes(), held_out.parent).held_out for _ in range(2)
    )
    assert sorted(found) == sorted(set(CANONICAL))
    assert found == again != CANONICAL


def test_a_table_shows_as_many_digits_as_say_something() -> None:
    rows = [Figure("a", "b", "c", 0.123456, 0.01, 10), Figure("a", "", "d", 1234.5, math.nan, 2000)]
    lines = bench.markdown(rows).splitlines()
    assert lines[2:] == ["| a | b | c | 0.1235 ± 0.0100 | 10 |", "| a |  | d | 1,234 | 2,000 |"]


def test_command(tiny_checkpoint, held_out, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "PARTS", {"reconstruction": bench.PARTS["reconstruction"]})
    arguments = ["benchmark", "generation", held_out, "-o", tmp_path / "r", "--quick", "--checkpoint", tiny_checkpoint]
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert "| reconstruction |  | exact |" in done.stdout
    for extra, message in (
        (["--parts", "reconstruction,sampling"], "parts must be among reconstruction, qed, got sampling"),
        (["--corpus", "nowhere"], "nowhere: no such file or token store"),
        (["--qed-seeds", str(held_out), "--qed-n", "1000"], "holds 50 molecules, fewer than the 1000 asked for"),
    ):
        done = CliRunner().invoke(app, [*map(str, arguments), *extra])
        assert done.exit_code == 1
        assert message in done.stderr
