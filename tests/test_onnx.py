from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from stores import MOLECULES
from transformers import PreTrainedTokenizerFast

from molcmim import Featurizer
from molcmim.checkpoint import read_record

SMILES = [canonical for canonical, _ in MOLECULES]


@pytest.fixture(scope="module")
def graph(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    path = tmp_path_factory.mktemp("onnx") / "mean.onnx"
    # A process of its own: the checks of shapes at run time, which the tests switch on, would fix the graph's sizes.
    command = [sys.executable, "-m", "molcmim.cli", "export", "--checkpoint", str(tiny_checkpoint), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(path.parent.iterdir()) == [path]
    return onnxruntime.InferenceSession(path)


def test_the_graph_and_the_checkpoints_own_tokenizer_make_the_mean_embedding(
    graph: onnxruntime.InferenceSession, tiny_checkpoint: Path
) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_checkpoint)
    X = Featurizer.from_pretrained(tiny_checkpoint, "cpu").featurize(SMILES)
    ids = tokenizer(SMILES, padding=True, padding_side="right", return_tensors="np")["input_ids"]
    assert np.abs(graph.run(["mean"], {"input_ids": ids})[0] - X).max() < 1e-5
    shortest = min(range(len(SMILES)), key=lambda row: (ids[row] != 0).sum())
    alone = ids[[shortest]][:, : (ids[shortest] != 0).sum()]
    assert np.abs(graph.run(["mean"], {"input_ids": alone})[0] - X[shortest]).max() < 1e-5


def test_it_reads_the_longest_molecule_that_the_model_reads(
    graph: onnxruntime.InferenceSession, tiny_checkpoint: Path
) -> None:
    featurizer = Featurizer.from_pretrained(tiny_checkpoint, "cpu")
    longest = "C" * (featurizer.max_length - 2)
    ids = featurizer.tokenizer([longest], return_tensors="np")["input_ids"]
    assert ids.shape == (1, featurizer.max_length)
    assert np.abs(graph.run(None, {"input_ids": ids})[0] - featurizer.featurize(longest)).max() < 1e-5


def test_it_says_whose_weights_it_has(graph: onnxruntime.InferenceSession, tiny_checkpoint: Path) -> None:
    record, config = read_record(tiny_checkpoint), Featurizer.from_pretrained(tiny_checkpoint).model.config
    facts = {"weights_sha256": record["weights_sha256"], "vocab_hash": config.vocab_hash}
    assert graph.get_modelmeta().custom_metadata_map == facts
