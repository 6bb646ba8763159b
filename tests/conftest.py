"""Fixtures for all tests; molcmim's annotations, shapes included, are checked at run time while they run."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: two threads on tiny tensors only fight

import hypothesis
import pytest
import transformers.modeling_utils  # noqa: F401 - and torch: what loads under the hook is compiled anew each time
from jaxtyping import install_import_hook

install_import_hook("molcmim", "beartype.beartype")
hypothesis.settings.register_profile("molcmim", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("molcmim")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the property sets and the corpus, which are no part of the repository."""
    folder = Path(os.environ.get("MOLCMIM_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set MOLCMIM_TEST_DATA to the folder that holds moleculenet/")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, large enough that embeddings are of order 1 and no molecule is like another."""
    import torch

    from molcmim import checkpoint
    from molcmim.config import MolCMIMConfig
    from molcmim.model import MolCMIMModel
    from molcmim.tokenizer import load_tokenizer, vocab_hash

    tokenizer = load_tokenizer(ROOT / "tokenizers" / "smiles")
    torch.manual_seed(0)
    config = MolCMIMConfig.named("tiny", vocab_size=len(tokenizer), vocab_hash=vocab_hash(tokenizer))
    model = MolCMIMModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return checkpoint.write(model, tokenizer, folder, {"steps": 0, "store": {"sources": [{"file": "none"}]}})


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Token stores with descriptors, of 40 molecules to train on and of 8 others."""
    from stores import write_store

    folder = tmp_path_factory.mktemp("stores")
    return write_store(folder / "train", 0, 40, True), write_store(folder / "valid", 40, None, True)
