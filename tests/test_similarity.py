"""similarity: against RDKit's own, pair by pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from molcmim import similarity
from molcmim.smiles import packed_bits


def test_highest_is_the_maximum_of_rdkits(shared_data: Path, monkeypatch) -> None:
    monkeypatch.setattr(similarity, "AT_ONCE", 37)  # several blocks on both sides
    molecules = pd.read_csv(next((shared_data / "moleculenet").glob("esol*")))["smiles"].tolist()[:200]
    queries, known = molecules[:90], molecules[80:]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    of = {s: generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in molecules}
    expected = [max(DataStructs.BulkTanimotoSimilarity(of[q], [of[k] for k in known])) for q in queries]
    found = similarity.nearest(packed_bits(queries), packed_bits(known)).similarity
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[80:] == 1).all()
    assert found[:80].min() < 0.5


def test_nothing_known_is_like_nothing() -> None:
    none = packed_bits([])
    assert none.shape == (0, 256)
    assert similarity.nearest(packed_bits(["CCO", "C"]), none).similarity.tolist() == [0, 0]
    assert len(similarity.nearest(none, packed_bits(["C"])).which) == 0
    empty = np.zeros((1, 256), np.uint8)
    assert similarity.nearest(empty, empty).similarity.tolist() == [0]
