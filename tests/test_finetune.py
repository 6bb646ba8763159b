"""finetune, warm_start, property_network, tuned: against closed forms and scikit-learn; random weights."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors
from sklearn.kernel_ridge import KernelRidge
from stores import MOLECULES

from molcmim import checkpoint, warm_start
from molcmim.featurizer import Featurizer
from molcmim.finetune import Choices, cut, finetune, layer_depths, parameter_groups, train
from molcmim.kernel_machine import KernelMachine
from molcmim.property_network import PropertyNetwork, gaussian_waves, run
from molcmim.smiles import MoleculeError, fingerprints
from molcmim.tuned import PropertyModel, Task
from molcmim.warm_start import Labelled, Problem, closed_form, linear_start, masked_loss

SMILES = [text for text, _ in MOLECULES]
LOGP = np.array([Crippen.MolLogP(Chem.MolFromSmiles(text)) for text in SMILES])
QUICK = Choices(epochs=2, spellings=3, predict_spellings=2, waves=32)


def network(folder: Path, embedding: str = "mean", outputs: int = 1) -> PropertyNetwork:
    torch.manual_seed(0)
    return PropertyNetwork(checkpoint.load(folder)[0], embedding, outputs, 32)


def labelled(folder: Path, values: np.ndarray, weights: np.ndarray | None = None, spellings: int = 2) -> Labelled:
    model = PropertyModel([network(folder)], checkpoint.load(folder)[1], Task("regression", ["y"], [0.0], [1.0]), {})
    spelled = model.speller()._replace(spellings=spellings).read(SMILES[: len(values)])
    return Labelled(spelled, values, np.ones(len(values)) if weights is None else weights)


@pytest.fixture(scope="module")
def tuned(tiny_checkpoint: Path) -> PropertyModel:
    """Two members, two targets, one of them unknown for every third molecule."""
    y = np.stack([LOGP, 10 - 3 * LOGP], 1)
    y[::3, 1] = np.nan
    choices = replace(QUICK, ensemble=2)
    return finetune(tiny_checkpoint, SMILES[:36], y[:36], (SMILES[36:], y[36:]), targets=["a", "b"], choices=choices)


def test_masked_loss_is_the_mean_over_what_is_known() -> None:
    out = torch.tensor([[1.0, 5.0], [2.0, -1.0], [0.0, 3.0]])
    y = torch.tensor([[0.0, float("nan")], [4.0, 1.0], [float("nan"), float("nan")]])
    w = torch.tensor([1.0, 3.0, 100.0])
    assert masked_loss(out, y, w, "regression").item() == pytest.approx((1 * 1 + 3 * 4 + 3 * 4) / 7)
    z = torch.tensor([[0.0, float("nan")], [1.0, 0.0], [float("nan"), float("nan")]])
    binary = (math.log1p(math.exp(1)) + 3 * math.log1p(math.exp(-2)) + 3 * math.log1p(math.exp(-1))) / 7
    assert masked_loss(out, z, w, "binary").item() == pytest.approx(binary)
    classes = torch.tensor([[1.0], [0.0], [float("nan")]])
    chosen = F.cross_entropy(out[:2], torch.tensor([1, 0]), reduction="none")
    assert masked_loss(out, classes, w, "multiclass").item() == pytest.approx(float(chosen @ w[:2]) / 4, rel=1e-6)
    assert masked_loss(out, torch.full((3, 2), float("nan")), w, "regression").item() == 0


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_unknown_values_send_no_gradient(kind: str) -> None:
    out = torch.zeros(2, 2, requires_grad=True)
    masked_loss(out, torch.tensor([[1.0, float("nan")], [float("nan"), 0.0]]), torch.ones(2), kind).backward()
    assert torch.equal(out.grad != 0, torch.tensor([[True, False], [False, kind == "binary"]]))
    assert torch.isfinite(out.grad).all()


@pytest.mark.parametrize("embedding", ["mean", "both"])
def test_learning_rates_fall_from_the_head_down(tiny_checkpoint: Path, embedding: str) -> None:
    net = network(tiny_checkpoint, embedding)
    choices = Choices(learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    groups = parameter_groups(net, choices)
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    lr = {name_of[id(p)]: group["lr"] for group in groups for p in group["params"]}
    decay = {name_of[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert lr.keys() == dict(net.named_parameters()).keys()
    layers, above = net.model.config.encoder_layers, 0 if embedding == "mean" else net.model.config.decoder_layers + 1
    top = layers + 2 + above
    expected = {
        "head.linear.weight": top,
        "head.frequencies.bias": top,
        "model.to_mu.weight": layers + 1,
        "model.encoder.blocks.1.mlp.up.weight": 2,
        "model.encoder.reads.0.query.weight": 1,
        "model.encoder.key_value.weight": 0,
        "model.encoder.tokens.weight": 0,
    }
    if embedding == "both":
        expected |= {
            "model.decoder.memory.weight": layers + 2,
            "model.decoder.blocks.1.attention.qkv.weight": layers + 4,
        }
        assert lr["model.decoder.norm.weight"] == 0.5
    for name, depth in expected.items():
        assert lr[name] == pytest.approx(0.5 ** (top - depth)), name
    assert max(layer_depths(net).values()) == top
    assert decay["model.to_mu.weight"] == 0.1
    assert decay["model.to_mu.bias"] == decay["model.encoder.tokens.weight"] == 0
    assert not [name for name in lr if "to_vocabulary" in name or "to_descriptors" in name]


def test_waves_are_a_gaussian_kernel(tiny_checkpoint: Path) -> None:
    head = PropertyNetwork(checkpoint.load(tiny_checkpoint)[0], "mean", 1, 20_000).head
    gaussian_waves(head, 0.02, torch.Generator().manual_seed(0))
    z = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    kernel = torch.exp(-0.02 * torch.cdist(z, z) ** 2)
    torch.testing.assert_close((head.wave(z) @ head.wave(z).T).detach(), kernel, atol=0.03, rtol=0)


def test_closed_form_is_kernel_ridge_regression(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "GAMMAS", (1.0,))
    monkeypatch.setattr(warm_start, "PENALTIES", (0.3,))
    y = ((LOGP - LOGP.mean()) / LOGP.std())[:, None]
    data = labelled(tiny_checkpoint, y, spellings=1)
    net = PropertyNetwork(checkpoint.load(tiny_checkpoint)[0], "mean", 1, 8_000)
    loss = closed_form(net, Problem.of(net, data, "regression"), data, "regression", 0)
    X = run(net, data.spelled, features=True)[data.spelled.spellings[data.spelled.which, 0]]
    Z = ((X - X.mean(0)) / X.std(0)).clip(-10, 10)
    gram = Z @ Z.T / 32 + np.exp(-((Z[:, None] - Z) ** 2).sum(-1) / 32)
    # The constant, which is not penalised, as a kernel of great weight.
    reference = KernelRidge(alpha=0.3, kernel="precomputed").fit(gram + 1e4, y[:, 0]).predict(gram + 1e4)
    ours = run(net, data.spelled)[data.spelled.spellings[data.spelled.which, 0], 0]
    np.testing.assert_allclose(ours, reference, atol=0.05)
    assert loss == pytest.approx(((ours - y[:, 0]) ** 2).mean(), rel=1e-4)


def test_linear_start_is_weighted_ridge_over_known_rows(tiny_checkpoint: Path) -> None:
    weights = np.linspace(0, 2, len(SMILES))
    y = np.stack([LOGP, LOGP**2], 1)
    y[::4, 1] = np.nan
    data = labelled(tiny_checkpoint, y, weights, spellings=1)
    net = network(tiny_checkpoint, outputs=2)
    problem = Problem.of(net, data, "regression")
    closed_form(net, problem, data, "regression", 0)
    linear_start(net.head, problem, 0.2)
    X = run(net, data.spelled, features=True)[data.spelled.spellings[data.spelled.which, 0]].astype(float)
    Z = np.c_[((X - X.mean(0)) / X.std(0)).clip(-10, 10), np.ones(len(X))]
    ours = run(net, data.spelled)[data.spelled.spellings[data.spelled.which, 0]]
    for i, column in enumerate(y.T):
        known = ~np.isnan(column)
        penalty = np.diag([len(y) * 0.2 / 0.8] * 32 + [0])
        W = weights[known, None]
        solution = np.linalg.solve(Z[known].T @ (W * Z[known]) + penalty, Z[known].T @ (W[:, 0] * column[known]))
        np.testing.assert_allclose(ours[:, i], Z @ solution, atol=2e-3)


def test_batches_are_of_similar_lengths_and_hold_everything_once() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 100, 1000)
    batches = cut(lengths, 32, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(1000))
    assert sorted(map(len, batches)) == [8, *[32] * 31]
    padded = sum(len(own) * lengths[own].max() for own in batches)
    assert padded < 1.15 * lengths.sum()
    first = [own.min() // 256 for own in batches]
    assert first != sorted(first)  # the pools are not met one after the other
    assert all(own.max() < 256 * (own.min() // 256 + 1) for own in batches)


def test_training_learns_and_keeps_the_best(tiny_checkpoint: Path) -> None:
    y = ((LOGP - LOGP.mean()) / LOGP.std())[:, None]
    data = labelled(tiny_checkpoint, y)
    net = network(tiny_checkpoint)
    before = net.model.encoder.reads[0].query.weight.clone()
    choices = Choices(epochs=40, learning_rate=3e-3, batch_size=16, averaging=0.9, dropout=0.0, waves=32)
    net.head.dropout.p = 0.0
    history = train(net, data, data, "regression", choices)
    assert [entry["epoch"] for entry in history] == list(range(len(history)))
    lowest = min(entry["valid_loss"] for entry in history)
    assert lowest < 0.3  # the mean has 1
    assert lowest < history[1]["valid_loss"]
    found = run(net, data.spelled)[data.spelled.spellings[data.spelled.which, 0], 0]
    assert ((found - y[:, 0]) ** 2).mean() == pytest.approx(lowest, rel=1e-4)
    if history[0]["valid_loss"] > lowest:  # else the frozen model was kept
        assert not torch.equal(net.model.encoder.reads[0].query.weight, before)


def test_no_epochs_leave_the_pretrained_model_as_it_was(tiny_checkpoint: Path) -> None:
    choices = replace(QUICK, epochs=0)
    model = finetune(tiny_checkpoint, SMILES[:36], LOGP[:36, None], (SMILES[36:], LOGP[36:, None]), choices=choices)
    pretrained = checkpoint.load(tiny_checkpoint)[0]
    for name, weight in model.networks[0].model.state_dict().items():
        assert torch.equal(weight, pretrained.state_dict()[name])
    assert len(model.training["history"][0]) == 1


def test_it_repeats_itself_and_the_global_seed_stays(tiny_checkpoint: Path) -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    models = [
        finetune(tiny_checkpoint, SMILES[:30], LOGP[:30, None], (SMILES[30:], LOGP[30:, None]),
                 choices=replace(QUICK, seed=seed)) for seed in (0, 0, 1)
    ]  # fmt: skip
    assert torch.equal(state, torch.random.get_rng_state())
    a, b, c = (model.predict(SMILES) for model in models)
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_the_callers_gradient_mode_and_dtype_do_not_matter(tiny_checkpoint: Path) -> None:
    def predicted() -> np.ndarray:
        y = LOGP[:, None]
        return finetune(tiny_checkpoint, SMILES[:30], y[:30], (SMILES[30:], y[30:]), choices=QUICK).predict(SMILES)

    expected = predicted()
    with torch.no_grad():
        np.testing.assert_array_equal(predicted(), expected)
    with torch.inference_mode():
        np.testing.assert_array_equal(predicted(), expected)
    try:
        torch.set_default_dtype(torch.float64)
        assert np.isfinite(predicted()).all()  # other draws, but a model
    finally:
        torch.set_default_dtype(torch.float32)


def test_rows_of_weight_zero_and_unknown_values_change_nothing(tiny_checkpoint: Path) -> None:
    valid = SMILES[40:], LOGP[40:, None]
    weights = np.r_[np.ones(30), np.zeros(6)]
    wild = np.r_[LOGP[:30], np.full(6, 1e3)][:, None]
    a = finetune(tiny_checkpoint, SMILES[:36], wild, valid, weights=weights, choices=replace(QUICK, epochs=0))
    wild[30:] = np.nan
    b = finetune(tiny_checkpoint, SMILES[:36], wild, valid, choices=replace(QUICK, epochs=0))
    assert a.task.center == b.task.center == [pytest.approx(LOGP[:30].mean())]
    np.testing.assert_allclose(a.predict(SMILES), b.predict(SMILES), atol=0.15)


def test_predictions_depend_on_the_molecule_alone(tuned: PropertyModel) -> None:
    together = tuned.predict(SMILES)
    assert together.shape == (len(SMILES), 4)
    written = [Chem.MolToSmiles(Chem.MolFromSmiles(text), doRandom=True) for text in SMILES]
    np.testing.assert_array_equal(tuned.predict(written), together)
    np.testing.assert_array_equal(tuned.predict([Chem.MolFromSmiles(text) for text in SMILES]), together)
    np.testing.assert_allclose(tuned.predict(SMILES[7]), together[7:8], atol=1e-4)
    np.testing.assert_allclose(tuned.predict(SMILES[::-1]), together[::-1], atol=1e-4)


def test_spellings_are_averaged(tuned: PropertyModel) -> None:
    spelled = tuned.speller().read(SMILES)
    one = run(tuned.networks[0], spelled)
    center, scale = np.array(tuned.task.center), np.array(tuned.task.scale)
    by_hand = [center + scale * one[own].astype(float).mean(0) for own in spelled.spellings]
    np.testing.assert_allclose(tuned.voices(spelled)[0], by_hand, atol=1e-6)


def test_an_ensemble_is_unsure(tuned: PropertyModel) -> None:
    found = tuned.predict(SMILES)
    assert tuned.columns == ["a_predicted", "b_predicted", "a_std", "b_std"]
    assert (found[:, 2:] > 0).all()
    spelled = tuned.speller().read(SMILES)
    first, second, kernel = tuned.voices(spelled)[:, spelled.which]
    mean = ((first + second) / 2 + kernel) / 2
    np.testing.assert_allclose(found[:, :2], mean)
    (a, b), _ = tuned.task.spread
    variance = ((first - mean) ** 2 / 2 + (second - mean) ** 2 / 2 + (kernel - mean) ** 2) / 2
    np.testing.assert_allclose(found[:, 2] ** 2, a * variance[:, 0] + b)


def test_the_last_voice_is_a_kernel_machine_on_descriptors(tuned: PropertyModel, tiny_checkpoint: Path) -> None:
    X = fingerprints(SMILES, "rdkit2d")
    assert tuned.task.descriptors == [name for name, _ in Descriptors.descList]
    y = np.stack([LOGP, 10 - 3 * LOGP], 1)[:36]
    y[::3, 1] = np.nan
    center, scale = np.array(tuned.task.center), np.array(tuned.task.scale)
    machine = KernelMachine.fit(X[:36], (y - center) / scale, np.ones(36))
    spelled = tuned.speller().read(SMILES)
    voice = tuned.voices(spelled)[-1][spelled.which]
    np.testing.assert_allclose(voice, center + scale * machine.predict(X), atol=1e-3)
    assert np.corrcoef(voice[36:, 0], LOGP[36:])[0, 1] > 0.9
    plain = replace(QUICK, epochs=0, descriptors=False)
    model = finetune(tiny_checkpoint, SMILES[:36], LOGP[:36, None], (SMILES[36:], LOGP[36:, None]), choices=plain)
    assert model.kernel is None
    assert model.task.descriptors == []
    assert len(model.voices(model.speller().read(SMILES))) == 1


def test_bad_molecules_are_named_or_nan(tuned: PropertyModel, tiny_checkpoint: Path) -> None:
    bad = ["CCO", "C1CC", None, "C" * 300]
    with pytest.raises(MoleculeError, match="unclosed ring") as caught:
        tuned.predict(bad)
    assert [entry.row for entry in caught.value.rows] == [1, 2, 3]
    found = tuned.predict(bad, on_error="nan")
    np.testing.assert_array_equal(np.isnan(found).all(1), [False, True, True, True])
    assert np.isnan(tuned.predict([None], on_error="nan")).all()
    with pytest.raises(ValueError, match="'raise' or 'nan' here, got 'skip'"):
        tuned.predict(bad, on_error="skip")
    with pytest.raises(MoleculeError):
        finetune(tiny_checkpoint, bad, np.arange(4.0)[:, None], (SMILES, LOGP[:, None]))


def test_what_is_saved_is_what_is_loaded(tuned: PropertyModel, tmp_path: Path) -> None:
    folder = tuned.save(tmp_path / "model")
    loaded = PropertyModel.load(folder, "cpu")
    np.testing.assert_array_equal(loaded.predict(SMILES), tuned.predict(SMILES))
    assert loaded.task == tuned.task
    assert loaded.training == json.loads(json.dumps(tuned.training))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tuned)).predict(SMILES[:3]), tuned.predict(SMILES[:3]))
    assert loaded.kernel is not None
    tuned.save(folder)  # its like is replaced
    (tmp_path / "thesis").mkdir()
    with pytest.raises(FileExistsError, match="is no fine-tuned model"):
        tuned.save(tmp_path / "thesis")


def test_damage_is_said(tuned: PropertyModel, tmp_path: Path) -> None:
    def broken(name: str, content: bytes | None, kind: type[Exception], message: str) -> None:
        folder = tuned.save(tmp_path / "model")
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        with pytest.raises(kind, match=message):
            PropertyModel.load(folder)
        tuned.save(tmp_path / "new").rename(tmp_path / "spare")
        for path in (tmp_path / "spare").iterdir():
            path.replace(folder / path.name)
        (tmp_path / "spare").rmdir()

    weights = (tuned.save(tmp_path / "model") / "model.safetensors").read_bytes()
    broken("model.safetensors", weights[:-4] + b"\0\1\2\3", ValueError, "is damaged: SHA-256")
    broken("model.safetensors", None, FileNotFoundError, "is missing; .* is no fine-tuned model, or an incomplete")
    broken("finetuned.json", b"{", ValueError, "finetuned.json is damaged")
    record = json.loads((tmp_path / "model" / "finetuned.json").read_text())
    newer = json.dumps({**record, "format_version": 99}).encode()
    broken("finetuned.json", newer, ValueError, "has format 99, .* upgrade molcmim")
    older = json.dumps({**record, "format_version": 2}).encode()
    broken("finetuned.json", older, ValueError, "has format 2, now 5; fine-tune it again")
    other = json.dumps({**record, "vocab_hash": "0" * 64}).encode()
    broken("finetuned.json", other, ValueError, "tokenizer in .* is not the one")
    alien = json.dumps({**record, "task": {**record["task"], "descriptors": ["Charm"]}}).encode()
    broken("finetuned.json", alien, ValueError, "RDKit has no descriptor Charm")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    wider = json.dumps({**config, "width": 128}).encode()
    broken("config.json", wider, ValueError, "config.json is damaged: SHA-256")


@pytest.mark.parametrize(("kind", "classes"), [("binary", [0, 1]), ("multiclass", ["low", "middle", "high"])])
def test_classes(kind: str, classes: list, tiny_checkpoint: Path) -> None:
    y = np.digitize(LOGP, np.quantile(LOGP, [0.5] if kind == "binary" else [1 / 3, 2 / 3])).astype(float)[:, None]
    model = finetune(
        tiny_checkpoint, SMILES, y, (SMILES, y), kind=kind, classes=classes, choices=replace(QUICK, embedding="both")
    )
    found = model.predict(SMILES)
    assert found.shape == (len(SMILES), 1 if kind == "binary" else 3)
    assert ((found > 0) & (found < 1)).all()
    if kind == "multiclass":
        np.testing.assert_allclose(found.sum(1), 1)
        assert model.columns == ["y_probability_low", "y_probability_middle", "y_probability_high"]
    right = ((found[:, 0] > 0.5) if kind == "binary" else found.argmax(1)) == y[:, 0]
    assert right.mean() > 0.8


def test_the_head_may_read_descriptors(tiny_checkpoint: Path, tmp_path: Path) -> None:
    choices, y = replace(QUICK, epochs=1, embedding="descriptors"), LOGP[:, None]
    model = finetune("molcmim-small", SMILES, y, (SMILES, y), choices=replace(choices, averaging=0.0))
    assert model.networks[0].head.linear.in_features == Featurizer.from_pretrained().dim("descriptors")
    assert {name.split(".")[1] for name, _ in model.networks[0].named_parameters()} >= {"encoder", "to_descriptors"}
    model.save(tmp_path / "model")
    found = model.predict(SMILES)
    np.testing.assert_allclose(PropertyModel.load(tmp_path / "model").predict(SMILES), found, atol=1e-5)
    assert np.corrcoef(found[:, 0], LOGP)[0, 1] > 0.95
    with pytest.raises(ValueError, match="'descriptors': that takes training with the chemistry factor"):
        finetune(tiny_checkpoint, SMILES, y, (SMILES, y), choices=choices)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"embedding": "median"}, "embedding must be one of mean, informative, both, descriptors"),
        ({"ensemble": 0}, "ensemble must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be between 0 and 0.95, got 1.0"),
    ],
)
def test_wrong_choices(choice: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Choices(**choice)


def test_rows_of_no_weight_choose_nothing(tiny_checkpoint: Path) -> None:
    y, rubbish = LOGP[:, None], np.r_[LOGP[30:], 50.0, -60.0][:, None]
    choices = dataclasses.replace(QUICK, ensemble=2, descriptors=False)
    clean = finetune(tiny_checkpoint, SMILES[:30], y[:30], (SMILES[30:], y[30:]), choices=choices)
    valid = [*SMILES[30:], *SMILES[:2]], rubbish
    weights = np.r_[np.ones(18), 0, 0]
    ours = finetune(tiny_checkpoint, SMILES[:30], y[:30], valid, valid_weights=weights, choices=choices)
    for mine, theirs in zip(ours.training["history"], clean.training["history"], strict=True):
        assert [row["valid_loss"] for row in mine] == pytest.approx([row["valid_loss"] for row in theirs])
    np.testing.assert_allclose(ours.task.spread, clean.task.spread, rtol=1e-4)
    np.testing.assert_allclose(ours.valid_errors[:18], clean.valid_errors, rtol=1e-4)
    assert np.isnan(ours.valid_errors[18:]).all()


def test_what_cannot_be_learned_is_said(tiny_checkpoint: Path) -> None:
    def refused(message: str, y: np.ndarray, **arguments) -> None:
        valid = SMILES, np.resize(LOGP, (len(SMILES), 1))
        with pytest.raises(ValueError, match=message):
            finetune(tiny_checkpoint, SMILES[: len(y)], y, valid, choices=QUICK, **arguments)

    refused("'y' is 2.0 in every row of the train part", np.full((5, 1), 2.0))
    refused("'y' has no known value", np.full((5, 1), np.nan))
    refused(r"infinite in row\(s\) 1;", np.array([[0.0], [np.inf]]))
    refused(r"values has shape \(5, 1\); expected .* each of the 2", np.zeros((5, 1)), targets=["a", "b"])
    refused("'y' is 1.0 in every row of the train part", np.ones((5, 1)), kind="binary", classes=["no", "yes"])
    refused("kind must be one of regression, binary, multiclass", np.zeros((5, 1)), kind="ranking")
    refused(
        "weights must be finite and at least 0, not all 0; row 1 has -1.0",
        np.arange(3.0)[:, None],
        weights=np.array([1.0, -1, 1]),
    )
    with pytest.raises(ValueError, match=r"none of the 5 row\(s\) of the valid part has a value"):
        finetune(tiny_checkpoint, SMILES, LOGP[:, None], (SMILES[:5], np.full((5, 1), np.nan)), choices=QUICK)
    two = np.array(LOGP)[:, None] > [0, 1]
    with pytest.raises(ValueError, match="the classes of several targets are 0 and 1, got no, yes"):
        finetune(
            tiny_checkpoint, SMILES, two.astype(float), (SMILES, two.astype(float)), kind="binary",
            targets=["a", "b"], classes=["no", "yes"],
        )  # fmt: skip
