from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rdkit import Chem
from sklearn.linear_model import Ridge

from molcmim import checkpoint, loaded
from molcmim.featurizer import Featurizer

SMILES = ["CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C)C(=O)N2C", "C"]
LOADERS = {"load_delaney": 1128, "load_sampl": 642, "load_lipo": 4200}


@pytest.fixture(scope="module")
def dc() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what DeepChem's import may warn of is DeepChem's
        import deepchem
    return deepchem


@pytest.fixture(scope="module")
def door(dc: Any) -> Any:
    import molcmim.deepchem

    return molcmim.deepchem


@pytest.fixture(scope="module")
def featurizer(door: Any, tiny_checkpoint: Path) -> Any:
    return door.MolCMIMFeaturizer(tiny_checkpoint)


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path) -> Featurizer:
    return Featurizer.from_pretrained(tiny_checkpoint)


@pytest.fixture
def raw(shared_data: Path) -> str:
    return str(shared_data / "moleculenet" / "deepchem")


@pytest.mark.parametrize("load", LOADERS)
def test_molnet_loaders(load: str, dc: Any, featurizer: Any, plain: Featurizer, raw: str, tmp_path: Path) -> None:
    tasks, (data,), _ = getattr(dc.molnet, load)(
        featurizer, splitter=None, transformers=[], reload=False, data_dir=raw, save_dir=str(tmp_path)
    )
    assert data.X.shape == (LOADERS[load], plain.dim("mean"))
    assert data.X.dtype == np.float32
    assert data.y.shape == data.w.shape == (LOADERS[load], len(tasks))
    np.testing.assert_allclose(data.X[::50], plain.featurize(data.ids[::50]), atol=1e-5)


def test_the_cache_is_found_again(
    dc: Any, featurizer: Any, raw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"featurizer": featurizer, "data_dir": raw, "save_dir": str(tmp_path)}
    _, first, _ = dc.molnet.load_sampl(**settings)
    assert [path.name for path in (tmp_path / "sampl-featurized").iterdir()] == [str(featurizer)]
    monkeypatch.setattr(type(featurizer), "featurize", None)
    _, second, _ = dc.molnet.load_sampl(**settings)
    for before, after in zip(first, second, strict=True):
        np.testing.assert_array_equal(before.X, after.X)


# torch warns of how DeepChem's fit sums up its loss
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning")
@pytest.mark.parametrize("kind", ["ridge", "network"])
def test_models_train(kind: str, dc: Any, door: Any, tiny_checkpoint: Path, raw: str, tmp_path: Path) -> None:
    both = door.MolCMIMFeaturizer(tiny_checkpoint, embedding="both")
    tasks, (train, _, test), _ = dc.molnet.load_delaney(both, "random", data_dir=raw, save_dir=str(tmp_path))
    transformer = dc.trans.NormalizationTransformer(transform_X=True, dataset=train)
    train, test = transformer.transform(train), transformer.transform(test)
    if kind == "ridge":
        model = dc.models.SklearnModel(Ridge(100.0), model_dir=str(tmp_path / "model"))
        model.fit(train)
    else:
        model = dc.models.MultitaskRegressor(
            len(tasks), train.X.shape[1], layer_sizes=[64], dropouts=0.0, model_dir=str(tmp_path / "model")
        )
        model.fit(train, nb_epoch=10)
    scores = model.evaluate(test, [dc.metrics.Metric(dc.metrics.r2_score)])
    assert scores["r2_score"] > 0.5  # 0 is the mean of y


@pytest.mark.parametrize("shard_size", [8192, 3, None])
def test_csv_loader_drops_bad_rows_from_all_four(
    shard_size: int | None, dc: Any, featurizer: Any, plain: Featurizer, tmp_path: Path, caplog: Any
) -> None:
    rows = ["smiles,a,name", "CCO,1,first", "C1CC,2,open ring", "CC,3,third", ",4,none", "C,5,fifth", "x,6,no atom"]
    (tmp_path / "some.csv").write_text("\n".join(rows))
    loader = dc.data.CSVLoader(["a"], featurizer, feature_field="smiles", id_field="name")
    data = loader.create_dataset(str(tmp_path / "some.csv"), shard_size=shard_size)
    np.testing.assert_allclose(data.X, plain.featurize(["CCO", "CC", "C"]), atol=1e-5)
    assert data.y.tolist() == [[1], [3], [5]]
    assert data.w.tolist() == [[1], [1], [1]]
    assert data.ids.tolist() == ["first", "third", "fifth"]
    warned = [record.getMessage() for record in caplog.records if record.name == "molcmim.deepchem"]
    assert len(warned) == 3
    assert "Datapoint 1, 'C1CC', has no features: unclosed ring" in warned


def test_deepchems_own_in_memory_loader(dc: Any, featurizer: Any, plain: Featurizer) -> None:
    loader = dc.data.InMemoryLoader(["a"], featurizer)
    data = loader.create_dataset(zip(SMILES, range(5), strict=True), shard_size=2)
    np.testing.assert_allclose(data.X, plain.featurize(SMILES), atol=1e-5)
    assert data.y.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="array at index 1 has size 0"):  # the day this works, ours can go
        loader.create_dataset([("CCO", 1.0), ("C1CC", 2.0)])


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_our_in_memory_loader_gives_what_deepchems_gives(parts: int, dc: Any, door: Any, featurizer: Any) -> None:
    labels = [[float(i)] for i in range(5)]
    entries: list[Any] = list(zip(SMILES, labels, [[0.5]] * 5, "abcde", strict=True))
    entries = [entry[:parts] for entry in entries] if parts > 1 else SMILES
    theirs = dc.data.InMemoryLoader(["a"], featurizer).create_dataset(entries, shard_size=2)
    ours = door.InMemoryLoader(["a"], featurizer).create_dataset(entries, shard_size=2)
    np.testing.assert_allclose(ours.X, theirs.X, atol=1e-5)
    for name in ("y", "w", "ids"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype


def test_our_in_memory_loader_drops_bad_rows_and_batches(
    door: Any, featurizer: Any, plain: Featurizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    model = loaded.featurizer(featurizer.checkpoint).model
    monkeypatch.setattr(model, "encode", lambda *given, encode=model.encode: (calls.append(1), encode(*given))[1])
    entries = [("CCO", 1.0), (None, 2.0), ("CC", 3.0), ("C1CC", 4.0), *((smiles, 5.0) for smiles in SMILES[1:])]
    data = door.InMemoryLoader(["a"], featurizer).create_dataset(entries)
    np.testing.assert_allclose(data.X, plain.featurize(["CCO", "CC", *SMILES[1:]]), atol=1e-5)
    assert data.y.tolist() == [1, 3, 5, 5, 5, 5]
    assert data.ids.tolist() == [0, 2, 4, 5, 6, 7]
    assert len(calls) == 1
    data = door.InMemoryLoader(["a"], featurizer).create_dataset([("x", 1.0), ("C1CC", 2.0), *entries], shard_size=2)
    np.testing.assert_allclose(data.X, plain.featurize(["CCO", "CC", *SMILES[1:]]), atol=1e-5)
    assert data.ids.tolist() == [2, 4, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="row 0 has 5 parts"):
        door.InMemoryLoader(["a"], featurizer).create_dataset([("C", 1, 1, "id", "more")])


def test_featurize_by_parts(featurizer: Any, plain: Featurizer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "molcmim.deepchem")
    molecules = [Chem.MolFromSmiles("CCO"), "xx", *SMILES, ""]
    features = featurizer(molecules, log_every_n=3)
    assert features.shape == (8,)
    assert [row for row, x in enumerate(features) if x.shape == (0,)] == [1, 7]
    np.testing.assert_allclose(list(features[[0, *range(2, 7)]]), plain.featurize(["CCO", *SMILES]), atol=1e-5)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [text for level, text in said if level == "INFO"] == [f"Featurizing datapoint {i} of 8" for i in (0, 3, 6)]
    assert [text[:12] for level, text in said if level == "WARNING"] == ["Datapoint 1,", "Datapoint 7,"]


def test_one_molecule_none_and_only_bad_ones(featurizer: Any, plain: Featurizer) -> None:
    for one in ("CCO", Chem.MolFromSmiles("CCO")):
        np.testing.assert_allclose(featurizer(one), plain.featurize("CCO"), atol=1e-5)
    assert featurizer([]).shape == (0, plain.dim("mean"))
    assert featurizer(["xx", None]).shape == (2, 0)


def test_its_name_is_the_features_name(door: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_checkpoint, tmp_path / "elsewhere" / "with spaces.v2")
    make = door.MolCMIMFeaturizer
    weights = checkpoint.read_record(moved)["weights_sha256"]
    assert str(make(moved, batch_size=7, device="cpu")) == str(make(str(tiny_checkpoint)))
    assert str(make(moved)) == f"MolCMIMFeaturizer_{weights[:12]}_mean"
    names = {
        str(make(tiny_checkpoint, embedding, canonicalize, standardize))
        for embedding in ("mean", "informative", "both")
        for canonicalize in (True, False)
        for standardize in (True, False)
    }
    names.add(str(make(tiny_checkpoint, spellings=3)))
    assert len(names) == 13
    assert all(re.fullmatch(r"[\w-]{1,80}", name) for name in names)


def test_settings_reach_the_featurizer(door: Any, tiny_checkpoint: Path) -> None:
    def featurize(smiles: str, **settings: Any) -> np.ndarray:
        return door.MolCMIMFeaturizer(tiny_checkpoint, batch_size=1, device="cpu", **settings)(smiles)

    assert (featurize("OCC") == featurize("CCO")).all()
    assert (featurize("OCC", canonicalize=False) != featurize("CCO")).any()
    assert (featurize("CC(=O)[O-].[Na+]", standardize=True) == featurize("CC(=O)O")).all()
    averaged = Featurizer.from_pretrained(tiny_checkpoint, "cpu").featurize("OCC", spellings=3)
    np.testing.assert_allclose(featurize("CCO", spellings=3).reshape(1, -1), averaged, atol=1e-6)
    with pytest.raises(ValueError, match="embedding must be one of mean, informative, both, descriptors, got 'median'"):
        door.MolCMIMFeaturizer(tiny_checkpoint, "median")
    with pytest.raises(FileNotFoundError, match="no checkpoint 'nowhere'"):
        door.MolCMIMFeaturizer("nowhere")


def test_without_deepchem_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['deepchem'] = None; import molcmim; molcmim.deepchem"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: molcmim.deepchem needs DeepChem: pip install 'deepchem>=2.8'" in run.stderr


def test_sdf_loader_drops_bad_records(dc: Any, featurizer: Any, plain: Featurizer, tmp_path: Path) -> None:
    with Chem.SDWriter(str(tmp_path / "m.sdf")) as writer:
        for i, text in enumerate(SMILES):
            mol = Chem.MolFromSmiles(text)
            mol.SetProp("y", str(i))
            writer.write(mol)
    for sanitize in (True, False):
        loader = dc.data.SDFLoader(["y"], featurizer=featurizer, sanitize=sanitize)
        data = loader.create_dataset(str(tmp_path / "m.sdf"))
        assert data.y.tolist() == [[float(i)] for i in range(len(SMILES))]
        np.testing.assert_allclose(data.X, plain.featurize(SMILES), atol=1e-5)


def test_unknown_labels_have_no_weight(door: Any, featurizer: Any) -> None:
    loader = door.InMemoryLoader(["a", "b"], featurizer)
    data = loader.create_dataset([("CCO", [1.0, np.nan]), ("CCN", [np.nan, np.nan]), ("C", [2.0, 3.0], [0.5, 2.0])])
    assert data.y.tolist() == [[1, 0], [0, 0], [2, 3]]
    assert data.w.tolist() == [[1, 0], [0, 0], [0.5, 2]]
    one = door.InMemoryLoader(["a"], featurizer).create_dataset([("CCO", np.nan), ("CCN", 1.0)])
    assert (one.y.tolist(), one.w.tolist()) == ([0, 1], [[0], [1]])
    with pytest.raises(ValueError, match="row 0 is a list; give tuples of molecule, label, weight and id"):
        loader.create_dataset([["CCO", 1.0]])
