"""space: each way to choose a string from p(x|z), against a plain computation of what it promises."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from rdkit import Chem
from stores import MOLECULES, chain_rule, known

from molcmim import decoding
from molcmim.featurizer import Featurizer
from molcmim.generation import decode
from molcmim.space import BEAM_ROUNDS, Space

FEW = ["CCO", "OCC", "c1ccccc1", "Cc1ccccc1", "CC(C)=O", "ClC(Cl)Cl", "Nc1ccccc1", "CS(C)=O"]


@pytest.fixture(scope="module")
def model() -> Featurizer:
    return known()


@pytest.fixture(scope="module")
def codes(model):
    return model.featurize(FEW) + 0.3 * np.random.default_rng(0).standard_normal((8, 32), np.float32)


@pytest.mark.parametrize("how", ["greedy", "beam:3", "nucleus:0.9", "valid:4", "nearest:3"])
def test_log_prob_is_that_of_the_decoded_string(model, codes, how):
    frame = decode(codes, decoding=how, checkpoint=model)
    assert frame["valid"].any()
    for z, row in zip(codes, frame.itertuples(), strict=True):
        ids = torch.tensor(model.tokenizer(row.smiles)["input_ids"])
        if row.error is None or "no end" not in row.error:
            assert row.log_prob == pytest.approx(chain_rule(model.model, torch.from_numpy(z), ids), abs=1e-3)


def test_each_way_of_decoding_is_what_it_says(model):
    codes = 3 * np.random.default_rng(1).standard_normal((64, 32), np.float32)
    greedy, beam = (decode(codes, decoding=how, checkpoint=model) for how in ("greedy", "beam:8"))
    assert (beam["log_prob"] >= greedy["log_prob"] - 1e-3).all()
    assert (beam["log_prob"] > greedy["log_prob"] + 1e-2).any()
    narrow = decode(codes, decoding="nucleus:0.000001", checkpoint=model)
    assert list(narrow["smiles"]) == list(greedy["smiles"])
    assert list(decode(codes, decoding="beam", checkpoint=model)["smiles"]) == list(
        decode(codes, decoding="beam:5", checkpoint=model)["smiles"]
    )


@torch.no_grad()
def shaken_decoder(model: Featurizer, by: float) -> Featurizer:
    shaken = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in shaken.model.decoder.parameters():
        parameter += by * torch.randn(parameter.shape, generator=generator)
    return shaken


def test_where_greedy_fails_the_most_probable_molecule_of_a_beam_is_taken(model):
    shaken = shaken_decoder(model, 0.05)
    z = np.random.default_rng(0).standard_normal((40, 32), np.float32)
    greedy, found = (decode(z, decoding=how, checkpoint=shaken) for how in ("greedy", "valid:6"))
    good = greedy["valid"].to_numpy()
    assert 5 < good.sum() < 35
    assert found["valid"].sum() > good.sum()
    assert_frame_equal(found[good], greedy[good])
    forbidden = Space(shaken).forbidden
    for row in np.flatnonzero(~good):
        code = torch.from_numpy(z[row])
        beams = decoding.decode_ids(
            shaken.model, code[None], num_beams=6, num_return_sequences=6, length_penalty=0.0, suppress_tokens=forbidden
        )
        strings = [shaken.tokenizer.decode(ids, skip_special_tokens=True) for ids in beams if (ids == 2).any()]
        log_p = {
            string: chain_rule(shaken.model, code, torch.tensor(shaken.tokenizer(string)["input_ids"]))
            for string in strings
            if string and Chem.MolFromSmiles(string) is not None
        }
        assert found["smiles"][row] == max(log_p, key=log_p.get, default=greedy["smiles"][row])
    assert_frame_equal(decode(z[::-1], decoding="valid:6", checkpoint=shaken)[::-1].reset_index(drop=True), found)


def test_codes_are_corrected_until_the_molecule_has_the_code(model):
    shaken = shaken_decoder(model, 0.05)
    z = shaken.featurize([smiles for smiles, _ in MOLECULES[:24]])
    frames = {how: decode(z, decoding=how, checkpoint=shaken) for how in ("greedy", "valid", "nearest:4", "nearest:8")}
    away = {}
    for how, frame in frames.items():
        own = shaken.featurize(list(frame["canonical"]), on_error="nan")
        away[how] = np.where(frame["valid"], np.linalg.norm(own - z, axis=1), np.inf)
    for few, more in (("greedy", "valid"), ("valid", "nearest:4"), ("nearest:4", "nearest:8")):
        assert (away[more] <= away[few] + 1e-4).all()  # the vectors of one molecule differ by rounding
    assert (away["nearest:8"] < away["valid"] - 1e-3).any()
    good = away["valid"] < 1e-3
    assert_frame_equal(frames["nearest:4"][good], frames["valid"][good])
    for row in range(len(z)):  # the same, one code at a time
        first, best, nearest, u = frames["valid"].loc[row], frames["valid"].loc[row], away["valid"][row], z[row].copy()
        for _ in range(4 if nearest < np.inf else 0):
            if nearest < 1e-3:
                break
            u += 0.3 * (z[row] - shaken.featurize(first["canonical"])[0] if first["valid"] else z[row] - u)
            first = decode(u, checkpoint=shaken).loc[0]
            own = shaken.featurize(first["canonical"])[0] if first["valid"] else np.inf
            if (distance := np.linalg.norm(own - z[row])) < nearest:
                best, nearest = first, distance
        u = z[row].copy()
        for _ in range(BEAM_ROUNDS if nearest < np.inf else 0):
            if nearest < 1e-3:
                break
            beam = Space(shaken)._judged(u[None], decoding.beam_search(10, 10), np.random.default_rng(0))
            own = shaken.featurize(list(beam["canonical"]), on_error="nan")
            distances = np.where(beam["valid"], np.linalg.norm(own - z[row], axis=1), np.inf)
            if (distance := distances.min()) < nearest:
                best, nearest = beam.loc[distances.argmin()], distance
            u += 0.3 * (z[row] - own[distances.argmin()] if distance < np.inf else z[row] - u)
        assert frames["nearest:4"]["smiles"][row] == best["smiles"]


def test_wide_nucleus_draws_from_the_model(model):
    """First tokens drawn 2,000 times have the frequencies that p(x_1|z) says."""
    z = model.featurize(["CCO"]) + 1
    frame = decode(z.repeat(2000, 0), decoding="nucleus:1", checkpoint=model)
    with torch.no_grad():
        hidden = model.model.decoder(torch.tensor([[1]]), torch.from_numpy(z))
        p = model.model.decoder.to_vocabulary(hidden)[0, 0].softmax(-1)
    for token in p.topk(3).indices:
        share = frame["smiles"].map(lambda s, t=int(token): model.tokenizer(s)["input_ids"][1] == t).mean()
        assert abs(share - p[token]) < 4.5 * math.sqrt(p[token] * (1 - p[token]) / 2000) + 1e-3


def test_batches_do_not_matter(model, codes, monkeypatch):
    whole = decode(codes, checkpoint=model)
    assert whole["smiles"].nunique() > 3
    monkeypatch.setitem(decoding.TOKENS_PER_BATCH, "cpu", 3 * 256)  # three at a time
    assert_frame_equal(decode(codes, checkpoint=model), whole, atol=1e-3)
    one_by_one = pd.concat([decode(z, checkpoint=model) for z in codes], ignore_index=True)
    assert_frame_equal(one_by_one, whole, atol=1e-3)


def test_what_cannot_be_encoded_has_no_probability(model):
    space = Space(model)
    found = space.log_probability(["CCO", "C" * 5000, "C1CC"], space.encode(["CCO"]).mu[0])
    assert np.isnan(found).tolist() == [False, True, True]
    assert found[0] == space.log_probability(["CCO"], space.encode(["CCO"]).mu[0])[0]
    assert np.isnan(space.log_probability(["C1CC"], space.encode(["CCO"]).mu[0])).all()


def test_what_the_caller_computes_in_does_not_matter(model, codes):
    space = Space(model)
    expected = space.decode(codes, "greedy", np.random.default_rng(0))
    code = codes[0]
    told = space.log_probability(["CCO"], code)
    try:
        torch.set_default_dtype(torch.float64)
        found = space.decode(codes, "greedy", np.random.default_rng(0))
        assert np.array_equal(space.log_probability(["CCO"], code), told)
    finally:
        torch.set_default_dtype(torch.float32)
    pd.testing.assert_frame_equal(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        pd.testing.assert_frame_equal(space.decode(codes, "greedy", np.random.default_rng(0)), expected)
        assert np.array_equal(space.log_probability(["CCO"], code), told)
