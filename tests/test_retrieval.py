"""Retrieval: counted over again one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from stores import MOLECULES

from molcmim import retrieval, smiles
from molcmim.featurizer import Featurizer

LIBRARY = [text for text, _ in MOLECULES]


@pytest.fixture(scope="module")
def featurizer(tiny_checkpoint):
    return Featurizer.from_pretrained(tiny_checkpoint, "cpu")


def test_shares_are_those_of_the_double_loop(featurizer, monkeypatch):
    monkeypatch.setattr(retrieval, "KS", (1, 3))
    monkeypatch.setattr(retrieval, "QUERIES_AT_A_TIME", 4)
    library = list(dict.fromkeys(map(Chem.CanonSmiles, LIBRARY)))
    spelled = [*LIBRARY, *(smiles.random_spellings(smiles.parse(one), 1, 7)[0] for one in LIBRARY)]  # once each
    measured = retrieval.measure(featurizer, spelled, queries=len(LIBRARY), progress=False).set_index(["ranking", "k"])
    X = featurizer.featurize(library)
    scaffolds = [smiles.murcko_scaffold(molecule) for molecule in library]
    expected = {(ranking, k): ([], [], []) for ranking in ("mean", "tanimoto", "chance") for k in (1, 3)}
    for i, query in enumerate(library):
        likeness = smiles.similarities(query, library)
        cosine = X @ X[i] / np.linalg.norm(X, axis=1)
        others = [j for j in range(len(library)) if j != i]
        for (ranking, k), (same, similar, tanimoto) in expected.items():
            score = {"mean": cosine, "tanimoto": likeness, "chance": np.zeros(len(library))}[ranking]
            chosen = sorted(others, key=lambda j: -score[j])[: None if ranking == "chance" else k]
            if scaffolds[i]:
                same.append(np.mean([scaffolds[j] == scaffolds[i] for j in chosen]))
            similar.append(np.mean([likeness[j] > 0.5 for j in chosen]))
            tanimoto.append(np.mean([likeness[j] for j in chosen]))
    for place, columns in expected.items():
        found = measured.loc[place, ["same_scaffold", "similar", "tanimoto"]].to_numpy(float)
        np.testing.assert_allclose(found, [np.mean(column) for column in columns], atol=1e-6)
    assert set(measured["library"]) == set(measured["queries"]) == {len(library)}


def test_a_picture_is_drawn(featurizer, monkeypatch, tmp_path):
    monkeypatch.setattr(retrieval, "KS", (1, 3))
    retrieval.draw(retrieval.measure(featurizer, LIBRARY, queries=5, progress=False), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_too_small_a_library_is_refused(featurizer):
    with pytest.raises(ValueError, match="more than 50 different molecules; there are 2"):
        retrieval.measure(featurizer, ["CCO", "CCN", "CCO"])
