"""The whole model: what it outputs, how it is saved, what it refuses, and that it learns."""

from __future__ import annotations

import copy
import inspect
import os
import shutil
import subprocess
import sys

import pytest
import torch
from stores import MOLECULES, batch_of, learned
from transformers import AutoConfig, AutoModel

import molcmim
from molcmim.config import SIZES, MolCMIMConfig
from molcmim.decoding import decode_ids
from molcmim.latent import LOGVAR_MAX, LOGVAR_MIN
from molcmim.model import MolCMIMModel
from molcmim.tokenizer import load_tokenizer


def build(**settings):
    torch.manual_seed(0)
    return MolCMIMModel(MolCMIMConfig.named("tiny", **settings))


@pytest.fixture(scope="module")
def batch():
    return batch_of(MOLECULES)


def test_output_is_the_sum_over_predicted_tokens(batch):
    model = build(num_descriptors=3).eval()
    out = model(**batch)
    posterior = model.encode(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(out.mu, posterior.mu)
    for row, target in enumerate(batch["target_ids"]):
        x = target[target != 0]
        log_p = model.decoder.to_vocabulary(model.decode_hidden(x[None], out.z[row : row + 1]))[0].log_softmax(-1)
        assert out.num_tokens[row] == len(x) - 1
        torch.testing.assert_close(out.log_px[row], log_p.gather(1, x[1:, None]).sum(), atol=1e-4, rtol=1e-5)
        assert out.num_correct[row] == (log_p.argmax(-1) == x[1:]).sum()
    torch.testing.assert_close(out.descriptors, model.to_descriptors(out.z))
    assert not torch.equal(out.z, out.mu)
    assert torch.equal(model(**batch, sample=False).z, out.mu)


COMPILED = """
import copy, sys, torch
from molcmim.config import MolCMIMConfig
from molcmim.model import MolCMIMModel
torch.manual_seed(0)
model = MolCMIMModel(MolCMIMConfig.named("tiny", num_descriptors=3, encoder_layers=1, decoder_layers=1)).eval()
twin = copy.deepcopy(model)
twin.compile_layers()
assert list(twin.state_dict()) == list(model.state_dict())
with torch.no_grad():
    for rows, tokens in ((9, 31), (4, 18)):  # the second shape must not be taken for the first
        ids = torch.randint(3, 90, (rows, tokens))
        ids[0, tokens // 2 :] = 0
        torch.testing.assert_close(twin(ids, ids, sample=False).log_px, model(ids, ids, sample=False).log_px)
"""


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_compiled_layers_compute_what_layers_compute():
    # In a process of its own: the shape checks that tests put around every function are not for a compiler.
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_model_without_descriptor_head_has_none(batch):
    assert build()(**batch).descriptors is None


def test_sampled_posterior_draws_one_variance_a_molecule_while_training(batch):
    model = build(posterior="sampled")
    assert model.to_logvar is None
    ids = batch["input_ids"][:8].repeat(50, 1)
    logvar = model.train().encode(ids).logvar
    assert (logvar == logvar[:, :1]).all()
    assert LOGVAR_MIN <= logvar.min() < LOGVAR_MIN + 0.1
    assert LOGVAR_MAX - 0.1 < logvar.max() <= LOGVAR_MAX
    ordered = logvar[:, 0].sort().values
    uniform = torch.linspace(LOGVAR_MIN, LOGVAR_MAX, 400)
    assert (ordered - uniform).abs().max() < 0.5  # Kolmogorov-Smirnov: 0.083 * 6, p = 0.01 at n = 400
    assert (model.eval().encode(ids).logvar == LOGVAR_MIN).all()


def test_learned_posterior_is_clamped_and_has_gradients(batch):
    model = build(posterior="learned")
    out = model(**batch)
    assert out.logvar.std() > 0
    out.logvar.sum().backward()
    assert model.to_logvar.weight.grad.abs().sum() > 0
    with torch.no_grad():
        model.to_logvar.weight.mul_(1e4)
        logvar = model.encode(batch["input_ids"]).logvar
    assert (logvar.min(), logvar.max()) == (LOGVAR_MIN, LOGVAR_MAX)


def test_draws_spread_as_the_posterior_says(batch):
    model = build(posterior="sampled").train()
    many = {name: tensor[:1].repeat(2000, 1) for name, tensor in batch.items()}
    with torch.no_grad():
        out = model(**many)
    standardised = (out.z - out.mu) / (0.5 * out.logvar).exp()
    assert abs(standardised.std() - 1) < 0.01
    assert abs(standardised.mean()) < 0.02


def test_latents_and_densities_are_float32_under_autocast(batch):
    model = build(num_descriptors=3)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**batch)
    assert {t.dtype for t in (out.mu, out.logvar, out.z, out.log_px, out.descriptors)} == {torch.float32}
    torch.testing.assert_close(out.mu, model(**batch).mu, atol=0.02, rtol=0.05)
    out.log_px.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("posterior", ["sampled", "learned"])
def test_saving_and_loading_is_exact(tmp_path, batch, posterior):
    model = build(posterior=posterior, num_descriptors=3, vocab_hash="abc", stem_kernel=5, dropout=0.1).eval()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    for loaded in (MolCMIMModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is molcmim.MolCMIMModel
        settings = inspect.signature(MolCMIMConfig).parameters.keys() - {"kwargs"}
        assert all(getattr(loaded.config, name) == getattr(model.config, name) for name in settings)
        state = loaded.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        expected, found = model(**batch, sample=False), loaded(**batch, sample=False)
        assert torch.equal(expected.log_px, found.log_px)
        assert not loaded.training


def test_auto_classes_know_the_model(tmp_path):
    config = MolCMIMConfig.named("tiny", latent_dim=16)
    config.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MolCMIMConfig
    model = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path))
    assert type(model) is MolCMIMModel
    assert model.config.latent_dim == 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_precision(batch, dtype):
    model = build(num_descriptors=3).eval()
    expected = model(**batch, sample=False)
    out = copy.deepcopy(model).to(dtype)(**batch, sample=False)
    assert (out.mu.dtype, out.descriptors.dtype) == (torch.float32, torch.float32)
    for name in ("mu", "log_px", "descriptors"):
        torch.testing.assert_close(getattr(out, name), getattr(expected, name), atol=0.05, rtol=0.05)


def test_weights_start_small_and_padding_at_zero():
    model = build(posterior="learned", num_descriptors=3)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "depthwise" in name:
            assert 0.15 < parameter.std() < 0.25, name
        else:
            assert 0.016 < parameter.std() < 0.024, name
    assert (model.encoder.tokens.weight[0] == 0).all()
    assert (model.decoder.tokens.weight[0] == 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes(size):
    config = MolCMIMConfig.named(size, vocab_size=100, heads=2)
    assert config.width == SIZES[size]["width"]
    assert (config.vocab_size, config.heads) == (100, 2)
    with torch.device("meta"):
        model = MolCMIMModel(config)
    assert model.encoder.latents.shape == (config.num_latents, config.width)
    assert (len(model.encoder.blocks), len(model.decoder.blocks)) == (
        config.encoder_layers,
        config.decoder_layers,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 65}, "width must be a multiple of heads, got width=65, heads=4"),
        ({"heads": 0}, "heads"),
        ({"posterior": "fixed"}, "posterior must be 'sampled', 'learned' or 'point', got 'fixed'"),
        ({"notation": "inchi"}, "notation must be 'smiles' or 'selfies', got 'inchi'"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"memory_tokens": 0}, "memory_tokens"),
        ({"stem_kernel": 4}, "stem_kernel must be odd"),
        ({"stem_kernel": -1}, "stem_kernel must be odd"),
        ({"dropout": 1.5}, "dropout"),
        ({"vocab_size": 2}, "vocab_size"),
        ({"max_position_embeddings": 1}, "max_position_embeddings"),
        ({"num_descriptors": -1}, "num_descriptors"),
        ({"widht": 64}, "unknown setting widht; known are .*width"),
    ],
)
def test_a_bad_configuration_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MolCMIMConfig.named("tiny", **settings)


def test_an_unknown_size_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown size 'huge'; the named sizes are tiny, small, base"):
        MolCMIMConfig.named("huge")


def test_a_small_model_learns_24_molecules_by_heart():
    model, batch, losses = learned()
    assert losses[-1] < 0.5 * losses[0]
    decoded = decode_ids(model, model.encode(batch["input_ids"], batch["attention_mask"]).mu)
    strings = load_tokenizer("smiles").batch_decode(decoded, skip_special_tokens=True)
    assert strings == load_tokenizer("smiles").batch_decode(batch["target_ids"], skip_special_tokens=True)
    assert len(set(strings)) == 24


def test_copies_are_independent():
    model = build()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.encoder.latents.add_(1)
    assert not torch.equal(twin.encoder.latents, model.encoder.latents)
