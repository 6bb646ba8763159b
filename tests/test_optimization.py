"""Optimisation: budgets, constraint, cache, log and resumption, on a decoder of chains without a network.

What the searches are worth is for tests/test_search.py, and on real weights for `molcmim benchmark generation`.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import chains
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

from molcmim import optimization
from molcmim.cli import app
from molcmim.generation import best, optimize
from molcmim.oracles import Scorer
from molcmim.search import METHODS, ranks
from molcmim.search_log import SearchLog
from molcmim.sklearn import MolCMIMRegressor
from molcmim.smiles import MoleculeError, similarities
from molcmim.space import Space
from molcmim.substructure import Substructures

SEEDS = ["CCNCCOCC", "CCCCCCCCCC", "CNCCNCCN"]


@pytest.fixture(autouse=True)
def decoded(monkeypatch):
    """Decode by chains; return the codes, generation by generation."""
    calls = []

    def decode(space, z, *rest):
        calls.append(z)
        return chains.decode(space, z, *rest)

    monkeypatch.setattr(Space, "decode", decode)
    monkeypatch.setattr(Space, "encode", chains.encode)
    return calls


@pytest.fixture
def run(tiny_checkpoint):
    def run(seeds=SEEDS, oracle=chains.oxygens, **options):
        return optimize(seeds, oracle, **{"calls": 40, "checkpoint": tiny_checkpoint, **options})

    return run


class Counted:
    """An oracle that remembers what it was asked."""

    def __init__(self):
        self.asked, self.batches = [], 0

    def __call__(self, molecules):
        self.asked += molecules
        self.batches += 1
        return chains.oxygens(molecules)


@pytest.mark.parametrize("method", METHODS)
def test_no_molecule_is_scored_twice_and_budgets_hold(run, method, decoded) -> None:
    oracle = Counted()
    frame = run(oracle=oracle, method=method)
    assert len(oracle.asked) == len(set(oracle.asked)) == frame.attrs["scored"]
    assert set(oracle.asked) == set(frame["canonical"])
    assert oracle.batches <= 1 + len(decoded)  # the seeds, then at most once a generation, for all seeds together
    for _, own in frame.groupby("seed"):
        assert own["canonical"].is_unique
        assert list(own["call"]) == list(range(1, len(own) + 1))
        assert len(own) == 40
        assert own["canonical"].iloc[0] == own["seed"].iloc[0]
        assert own["similarity"].iloc[0] == 1
    assert list(frame["score"]) == chains.oxygens(list(frame["canonical"]))
    assert (frame["best"] == frame.groupby("seed")["score"].cummax()).all()
    assert list(frame["seed"].unique()) == SEEDS
    cost = frame.attrs
    assert cost["draws"] == sum(map(len, decoded))
    assert cost["invalid"] == sum(chains.chain(code) == chains.BROKEN for z in decoded for code in z) > 0
    assert cost["draws"] == cost["invalid"] + cost["dissimilar"] + cost["repeated"] + len(frame) - len(SEEDS)


@pytest.mark.parametrize("method", METHODS)
def test_what_molecules_must_have_is_asked_before_they_are_scored(run, method) -> None:
    oracle = Counted()
    asked = {"must_have": "CN", "must_not_have": ["NN", "OO"]}
    frame = run(oracle=oracle, method=method, calls=60, min_similarity=0.1, **asked)
    scored = set(frame["canonical"]) - set(SEEDS)
    assert scored
    for molecule in scored:
        assert re.search("CN|NC", molecule)
        assert not re.search("NN|OO", molecule)
    assert set(oracle.asked) == scored | set(SEEDS)
    cost = frame.attrs
    assert cost["excluded"] > 0 < cost["dissimilar"]
    parts = sum(cost[name] for name in ("invalid", "dissimilar", "excluded", "repeated"))
    assert cost["draws"] == parts + len(frame) - len(SEEDS)
    assert run(method=method).attrs["excluded"] == 0


def test_a_search_finds_better_molecules(run) -> None:
    frame = run(calls=400, radius=0.3)
    found = best(frame)
    assert (found["gain"] >= 4).all()
    assert list(found["seed"]) == SEEDS
    random = best(run(calls=400, radius=0.3, method="best-of-n"))
    assert found["score"].sum() > random["score"].sum()


@pytest.mark.parametrize("method", ["cma", "perturbation"])
def test_a_search_is_told_the_codes_of_its_molecules(run, monkeypatch, method) -> None:
    """Not what it asked for, but what the molecule has that came of it; the baselines get what they asked for."""
    told, tell = [], METHODS[method].tell

    def listen(self, z, keys, *rest):
        told.extend(code for code, key in zip(z, keys, strict=True) if key[0] < 2)
        tell(self, z, keys, *rest)

    monkeypatch.setattr(METHODS[method], "tell", listen)
    run(SEEDS[1:2], method=method, radius=0.2, max_draws=200, min_similarity=0.3)
    assert (set(np.unique(np.stack(told)[:, : chains.ATOMS])) <= {-1, 0, 1}) == METHODS[method].chooses


@pytest.mark.parametrize("method", METHODS)
def test_a_search_measures_codes_by_the_descriptors_that_a_checkpoint_tells(run, monkeypatch, method) -> None:
    given, init = [], METHODS[method].__init__

    def listen(self, *arguments):
        given.append(arguments[-1])
        init(self, *arguments)

    monkeypatch.setattr(METHODS[method], "__init__", listen)
    run("CCCCC", method=method, calls=6)
    assert given.pop() is None  # no such head
    run("CCCCC", method=method, calls=6, checkpoint="molcmim-small")
    np.testing.assert_array_equal(given.pop().T, Space("molcmim-small", "cpu").model.to_descriptors.weight.detach())


def begun(method, seed):
    """Return a run in which nothing but the seed is known."""
    search = METHODS[method](np.zeros(3, np.float32), 0.5, 4, np.random.default_rng(0))
    return optimization._Run(0, seed, search, 0.0, {seed: optimization.Score((0.0,), 0.0, None)})


def test_what_is_worth_most_is_scored_and_the_rest_put_off(monkeypatch) -> None:
    def found(**worth):
        return optimization._Found([1.0] * 4, {name: np.full(3, w, np.float32) for name, w in worth.items()}, {}, [])

    monkeypatch.setattr(METHODS["cma"], "worth", lambda self, z: z[:, 0])
    monkeypatch.setattr(optimization, "POOL", 3)
    run = begun("cma", "C")
    chosen = optimization._choose(run, found(CC=1, CCC=3, CCCC=2, CN=0, CO=-1, CF=-2), calls=10, pace=2, max_draws=10)
    assert list(chosen) == ["CCC", "CCCC"]
    assert list(run.pool) == ["CC", "CN", "CO"]
    assert list(optimization._choose(run, found(NO=0.5), calls=10, pace=2, max_draws=10)) == ["CC", "NO"]
    assert list(optimization._choose(run, found(), calls=10, pace=1, max_draws=10)) == ["CN", "CO"]  # no draws are left
    several = found(CC=1, CCC=3, CCCC=2, CN=0)
    assert len(optimization._choose(begun("cma", "C"), several, calls=100, pace=3, max_draws=10)) == 2  # few at first
    run = begun("cma", "C")
    run.seen = dict.fromkeys(map(str, range(30)), run.seen["C"])
    assert len(optimization._choose(run, several, calls=100, pace=4, max_draws=10)) == 3
    chosen = optimization._choose(begun("perturbation", "C"), found(CC=1, CCC=3, CN=0), calls=3, pace=1, max_draws=10)
    assert list(chosen) == ["CC", "CCC"]  # in order, as many as there are calls


def test_similarity_is_a_constraint_that_costs_no_call(run) -> None:
    oracle = Counted()
    frame = run(oracle=oracle, min_similarity=0.3, max_draws=400)
    assert frame.attrs["dissimilar"] > 0
    assert (frame["similarity"] >= 0.3).all()
    for seed, own in frame.groupby("seed"):
        np.testing.assert_array_equal(own["similarity"], similarities(seed, list(own["canonical"])))
    assert set(oracle.asked) == set(frame["canonical"])


def test_draws_are_bounded_and_a_target_ends_a_search(run, decoded) -> None:
    frame = run("CCCCC", lambda molecules: [0.0] * len(molecules), calls=10_000, max_draws=100, codes=10)
    assert frame.attrs["draws"] == sum(map(len, decoded)) == 100
    decoded.clear()
    frame = run(calls=10_000, target=3.0, radius=0.8)
    reached = frame[frame["score"] >= 3].groupby("seed")["call"].min()
    assert len(reached) == 3
    assert (frame.groupby("seed")["call"].max() - reached < 24).all()  # within the generation that reached it


def test_the_same_arguments_give_the_same_frame(run) -> None:
    first, again, other = run(random_state=1), run(random_state=1), run(random_state=2)
    assert_frame_equal(first, again)
    assert first.attrs == again.attrs
    assert list(first["canonical"]) != list(other["canonical"])


def test_seeds_do_not_meddle_with_each_other(run) -> None:
    alone, beside = run(SEEDS[:1]), run(SEEDS)
    assert_frame_equal(beside[beside["seed"] == SEEDS[0]].reset_index(drop=True), alone)


def test_what_fails_has_its_reason_in_its_row(run) -> None:
    def oracle(molecules):
        if any("N" in molecule for molecule in molecules):
            raise KeyError("N")
        return [math.nan if "O" in molecule else len(molecule) for molecule in molecules]

    frame = run(oracle=oracle)
    failed = frame["canonical"].str.contains("[NO]")
    assert 0 < failed.sum() < len(frame)
    assert (frame["score"].isna() == failed).all()
    assert (frame["error"].notna() == failed).all()
    assert frame.loc[frame["canonical"].str.contains("N"), "error"].eq("oracle score: KeyError: 'N'").all()
    assert (best(frame, 3)["score"].notna()).all()
    asked = []

    def late(molecules):  # the seeds and the first dozen around them fail
        asked.extend(molecules)
        return [math.nan if asked.index(molecule) < 15 else 1.0 for molecule in molecules]

    assert run(oracle=late)["score"].notna().any()


def test_several_objectives_have_their_columns(run) -> None:
    frame = run(oracle={"oxygens": chains.oxygens, "logp": "logp"}, weights={"logp": -0.5})
    np.testing.assert_allclose(frame["score"], frame["oxygens"] - 0.5 * frame["logp"])
    assert list(frame)[6:10] == ["similarity", "score", "oxygens", "logp"]


def test_best_picks_the_highest_of_each_seed(run) -> None:
    frame = run()
    found = best(frame, 3)
    assert list(found["seed"]) == [seed for seed in SEEDS for _ in range(3)]
    for seed, own in found.groupby("seed"):
        scores = frame[frame["seed"] == seed]["score"]
        assert list(own["score"]) == sorted(scores, reverse=True)[:3]
        np.testing.assert_array_equal(own["gain"], own["score"] - scores.iloc[0])
    apart = best(frame, 3, max_similarity=0.5)
    for seed, own in apart.groupby("seed"):
        for i, molecule in enumerate(own["canonical"]):
            assert (similarities(molecule, own["canonical"][:i].tolist()) < 0.5).all()
        better = frame[(frame["seed"] == seed) & (frame["score"] > own["score"].iloc[1])]["canonical"].tolist()
        assert (similarities(own["canonical"].iloc[0], better) >= 0.5).all()  # each that was passed over
    assert list(apart["seed"]) == list(found["seed"])
    assert set(apart["canonical"]) != set(found["canonical"])


def test_two_searches_do_not_share_a_log(run, tmp_path) -> None:
    def oracle(molecules):
        with pytest.raises(FileExistsError, match=r"another process is writing .*log\.parquet now"):
            run(log=tmp_path / "log.parquet")
        return chains.oxygens(molecules)

    run(oracle=oracle, calls=5, log=tmp_path / "log.parquet")
    assert os.listdir(tmp_path) == ["log.parquet"]


def test_every_code_is_in_the_log_and_a_second_call_reads_it(run, tmp_path, decoded) -> None:
    path = tmp_path / "log.parquet"
    frame = run(log=path)
    log = pq.read_table(path).to_pandas()
    assert len(log) == frame.attrs["draws"] + len(SEEDS)
    assert list(log[log["generation"] > 0]["smiles"]) == [chains.chain(code) for z in decoded for code in z]
    assert log["call"].notna().sum() == len(frame)
    decoded.clear()
    oracle = Counted()
    again = run(oracle=oracle, log=path)
    assert not decoded
    assert not oracle.asked
    assert_frame_equal(again, frame)
    assert again.attrs == frame.attrs


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import chains
from molcmim import optimization, search_log
from molcmim.space import Space
from molcmim.substructure import Substructures
Space.decode, Space.encode = chains.decode, chains.encode
search_log.SAVE_EVERY = 0
asked = 0
def oracle(molecules):
    global asked
    asked += len(molecules)
    if asked > 70:
        os.kill(os.getpid(), signal.SIGKILL)
    return chains.oxygens(molecules)
optimization.optimize({seeds!r}, oracle, calls=40, codes=8, checkpoint={checkpoint!r}, log={log!r})
"""


def test_a_killed_run_goes_on_as_if_it_had_not_been(run, tmp_path, tiny_checkpoint) -> None:
    log = tmp_path / "log.parquet"
    path = [str(Path(chains.__file__).parent), *filter(None, sys.path)]
    program = KILLED.format(path=path, seeds=SEEDS, checkpoint=str(tiny_checkpoint), log=str(log))
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    known = set(pq.read_table(log).to_pandas().dropna(subset="call")["canonical"])
    assert len(known) > 30
    oracle = Counted()
    resumed = run(oracle=oracle, log=log, codes=8)
    whole = run(codes=8)
    assert_frame_equal(resumed, whole)
    assert resumed.attrs == whole.attrs
    assert not known & set(oracle.asked)
    assert known | set(oracle.asked) == set(whole["canonical"])
    assert [file.name for file in tmp_path.iterdir()] == ["log.parquet"]


def test_the_log_of_another_run_is_not_taken(run, tmp_path) -> None:
    path = tmp_path / "log.parquet"
    run(log=path)
    held = path.read_bytes()
    message = r"log.parquet is the log of another run: random_state differ; give"
    with pytest.raises(ValueError, match=message):
        run(log=path, calls=50, random_state=3)
    with pytest.raises(ValueError, match="log of another run: weights differ"):
        run(oracle="qed", log=path)
    assert path.read_bytes() == held
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match="no log of an optimisation"):
        run(log=path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        run(log=tmp_path / "nowhere" / "log.parquet")


@pytest.mark.parametrize("options", [{"calls": 25, "max_draws": 500}, {"calls": 8}, {"calls": 15, "target": 1.0}])
def test_another_budget_asks_only_for_what_has_no_score(run, tmp_path, options) -> None:
    path, first, second = tmp_path / "log.parquet", Counted(), Counted()
    run(oracle=first, log=path, codes=8, calls=15)
    other = run(oracle=second, log=path, codes=8, **options)
    whole = run(codes=8, **options)
    assert_frame_equal(other, whole)
    assert other.attrs == whole.attrs
    assert not set(first.asked) & set(second.asked)
    held = pq.read_table(path).to_pandas()
    met_before = held["generation"] == -1
    assert set(held["canonical"][met_before | held["call"].notna()]) == {*first.asked, *second.asked}
    assert set(held["canonical"][met_before]) == set(first.asked) - set(whole["canonical"])
    third = Counted()
    assert_frame_equal(run(oracle=third, log=path, codes=8, **options), whole)
    assert not third.asked


def test_a_larger_budget_that_breaks_loses_no_score(run, tmp_path) -> None:
    path, first = tmp_path / "log.parquet", Counted()
    run(oracle=first, log=path, codes=8)

    def breaking(molecules):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(oracle=breaking, log=path, codes=8, calls=70)
    held = pq.read_table(path).to_pandas()
    assert set(first.asked) == set(held["canonical"][held["score"].notna()])


def test_what_was_done_is_kept_when_the_oracle_breaks(run, tmp_path) -> None:
    calls, kept = 0, set()

    def oracle(molecules):
        nonlocal calls
        calls += 1
        if calls < 4:
            kept.update(molecules)
        return chains.oxygens(molecules)[: None if calls < 4 else -1]

    with pytest.raises(ValueError, match="it must return a list with one number for each"):
        run(oracle=oracle, log=tmp_path / "log.parquet", codes=8)
    log = pq.read_table(tmp_path / "log.parquet").to_pandas()
    assert set(log["canonical"][log["call"].notna()]) == kept
    assert log["generation"].max() >= 3  # what had been decoded for the call that failed, too


def test_what_failed_is_counted_and_asked_again_if_it_was_all(run, tmp_path) -> None:
    def failing(molecules):
        raise ConnectionError("no answer")

    log = tmp_path / "log.parquet"
    with pytest.raises(ValueError, match="no answer"):
        run(oracle=failing, log=log, codes=8)
    repaired = run(log=log, codes=8)
    assert_frame_equal(repaired, run(codes=8))
    assert repaired.attrs["failed"] == 0
    some = run(oracle=lambda molecules: [float("nan") if "O" in m else 1.0 for m in molecules], codes=8)
    assert some.attrs["failed"] == some.dropna(subset="error")["canonical"].nunique() > 0


def test_numbers_of_numpy_are_logged(tmp_path) -> None:
    settings = {"calls": np.int64(12), "target": np.float32(0.5), "seeds": ["C"]}
    assert SearchLog(tmp_path / "log.parquet", settings, Scorer("qed")).settings == {**settings, "calls": 12}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "seeds holds no molecule"),
        ({"seeds": ["CCO", "c1cc"]}, r"row\(s\) 1:"),
        ({"seeds": ["CCO", "CCC", "OCC"]}, "seeds 0 and 2 are the same molecule, CCO"),
        ({"calls": 0}, "calls must be at least 1, got 0"),
        ({"max_draws": 0}, "max_draws must be at least 1, got 0"),
        ({"codes": 1}, "codes must be at least 2, got 1"),
        ({"radius": -1.0}, "radius must be above 0 and finite, got -1"),
        ({"min_similarity": 1.5}, "min_similarity must be at least 0 and at most 1, got 1.5"),
        ({"method": "annealing"}, "unknown method 'annealing'; known are cma, perturbation, best-of-n"),
        ({"oracle": "beauty"}, "unknown oracle 'beauty'"),
        ({"oracle": {"score": "qed", "similarity": "sa"}}, "no objective can be called score, similarity"),
        ({"oracle": lambda molecules: [1.0]}, "list of 3 molecule.s. and returned 1 scores"),
        ({"oracle": lambda molecules: 1 / 0}, "the oracle failed for each of .*: ZeroDivisionError: division by zero"),
    ],
)
def test_bad_input_is_one_clear_error(run, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(**options)
    if options.get("seeds") == ["CCO", "c1cc"]:
        with pytest.raises(MoleculeError):
            run(**options)


def command(*arguments):
    return CliRunner().invoke(app, ["optimize", *map(str, arguments)])


def test_command(tiny_checkpoint, tmp_path) -> None:
    (tmp_path / "mine.py").write_text("def oxygens(molecules):\n    return [m.count('O') for m in molecules]\n")
    (tmp_path / "more.smi").write_text("CNCCNCCN\n")
    output = tmp_path / "b.csv"
    arguments = (
        "CCCCCCCCCC", "-i", tmp_path / "more.smi", "--oracle", f"{tmp_path}/mine.py:oxygens", "--oracle", "logp",
        "--weight", 1, "--weight", -0.1, "--calls", 40, "--top", 3, "-o", output, "--checkpoint", tiny_checkpoint,
    )  # fmt: skip
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(output)
    assert list(table["seed"]) == ["CCCCCCCCCC"] * 3 + ["CNCCNCCN"] * 3
    oxygens = np.array(chains.oxygens(list(table["canonical"])))
    np.testing.assert_allclose(table["score"], oxygens - 0.1 * table["logp"])
    assert "80 calls, " in done.stderr
    for name in ("b.png", "b.trajectory.png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert pq.read_table(tmp_path / "b.log.parquet").num_rows > 80
    other = command(*arguments, "--random-state", 1)
    assert other.exit_code == 1
    assert "random_state differ" in other.stderr
    assert command(*arguments, "--random-state", 1, "--restart").exit_code == 0
    (tmp_path / "helper.py").write_text("def count(m):\n    return float('nan') if 'C' not in m else -m.count('O')\n")
    (tmp_path / "mine.py").write_text(
        "import helper\ndef oxygens(molecules):\n    return map(helper.count, molecules)\n"
    )
    other = command(*arguments, "--random-state", 1)
    assert other.exit_code == 1
    assert "log of another run: oracles differ" in other.stderr
    other = command(*arguments, "--random-state", 1, "--restart")
    assert other.exit_code == 0
    twice = command("CCO", "--oracle", "qed", "--oracle", "qed", "--checkpoint", tiny_checkpoint)
    assert twice.exit_code == 2
    assert "given twice" in twice.stderr


def test_command_with_a_saved_regressor(tiny_checkpoint, tmp_path) -> None:
    molecules = ["CCO", "CCN", "CCCC", "CCOC", "CNC", "OCCO", "NCCN", "CCCCC"]
    options = {"waves": 16, "spellings": 1}
    model = MolCMIMRegressor(tiny_checkpoint, epochs=1, predict_spellings=1, options=options, device="cpu")
    model.fit(molecules, chains.oxygens(molecules)).save(tmp_path / "oxygens")
    output, oracle = tmp_path / "found.csv", f"regressor:{tmp_path}/oxygens"
    done = command("CCCCC", "--oracle", oracle, "--calls", 12, "-o", output, "--checkpoint", tiny_checkpoint)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(output)
    assert len(table) == 5
    np.testing.assert_allclose(table["score"], model.predict(list(table["canonical"])), rtol=1e-5)
    log = pd.read_parquet(tmp_path / "found.log.parquet")
    assert log["score"].notna().sum() == 12
    assert table["score"].iloc[0] == pytest.approx(log["score"].max())
    done = command("CCCCC", "--oracle", "regressor:nowhere", "--checkpoint", tiny_checkpoint)
    assert done.exit_code == 1
    assert "nowhere" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "seeds holds no molecule"),
        (["CCO", "--calls", "0"], 1, "calls must be at least 1, got 0"),
        (["CCO", "--oracle", "nowhere.py:f"], 1, "nowhere.py"),
        (["CCO", "--oracle", "qed", "--weight", "1", "--weight", "2"], 2, "2 for 1 of --oracle"),
    ],
)
def test_commands_end_with_one_line_on_bad_input(tiny_checkpoint, arguments, code, message) -> None:
    done = command(*arguments, "--checkpoint", tiny_checkpoint)
    assert done.exit_code == code
    assert message in done.stderr


def test_codes_are_sifted_and_keys_put_scores_first_then_similarity_then_failures_then_broken_strings() -> None:
    seed, near, far, farther = "CCCCCCCCO", "CCCCCCCCCO", "CCCCN", "c1ccccc1"
    molecules = [near, None, far, seed, near, farther, far]
    found = optimization._sift(begun("cma", seed), np.arange(7.0), molecules, 0.4, Substructures())
    assert found.new == {near: 0.0}
    assert {molecule: code for molecule, (code, _) in found.far.items()} == {far: 2.0, farther: 5.0}
    assert [code for code, _ in found.broken] == [1.0]
    np.testing.assert_array_equal(found.similarity, similarities(seed, molecules))
    scores = [optimization.Score((s,), s, None) for s in (1.0, 2.0)]
    failed = optimization.Score((math.nan,), math.nan, "failed")
    keys = [optimization._key(score) for score in (*scores, failed)]
    keys += [key for _, key in (*found.far.values(), *found.broken)]
    assert list(ranks(keys)) == [1, 0, 4, 2, 3, 5]
