"""Short pretraining runs of the tiny model and their probes: what the experiments on molecules share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from molcmim import Featurizer, MolCMIMConfig, MolCMIMModel, datasets
from molcmim.atomic import atomic_path
from molcmim.data import TOKENIZER, BucketedBatches, TokenStore
from molcmim.downstream import fit_head
from molcmim.metrics import HeldOut, held_out, held_out_batches, token_characters
from molcmim.objectives import OBJECTIVES
from molcmim.preflight import check_stores
from molcmim.prepare import StoreRecipe, prepare
from molcmim.progress import Progress
from molcmim.reading import Encoded
from molcmim.recipe import Recipe
from molcmim.tokenizer import load_tokenizer, vocab_hash
from molcmim.trainer import CurveCallback, PretrainTrainer, training_arguments

SPLITS = {"random": 5, "scaffold": 1}


class Stores(NamedTuple):
    """Token stores to train on and to evaluate on."""

    train: TokenStore
    valid: TokenStore


def stores(train: Path | None, valid: Path | None, output: Path) -> Stores:
    """The stores given, or a little one made of molecules.csv; they need random spellings."""
    if (train is None) != (valid is None):
        raise SystemExit("give both --store and --valid, or neither (then molecules.csv is used)")
    if train is not None and valid is not None:
        return Stores(TokenStore(train), TokenStore(valid))
    path = output / "store"
    if not path.exists():
        prepare([Path(__file__).with_name("molecules.csv")], path, recipe=StoreRecipe(spellings=4), workers=1)
    return Stores(TokenStore(path), TokenStore(path))


def kept(path: Path, measure: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A run's rows from where an earlier call left them, else measured and left there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            measure().to_csv(partial, index=False)
    return pd.read_csv(path)


def trained(data: Stores, **choices: Any) -> Featurizer:
    """A model trained by the tiny recipe with `choices`.

    As ``molcmim.pretrain.pretrain`` does, but without what makes a short run long: checkpoints, curves, TensorBoard,
    evaluation. The posterior is the first under which the objective means something.
    """
    defaults = {
        "posterior": OBJECTIVES[choices["objective"]].posteriors[0],
        "warmup_steps": min(20, choices["steps"] // 10),
        "log_every": choices["steps"],
    }
    recipe = Recipe.load("tiny", **{**defaults, **choices})
    manifest, needs = data.train.manifest, OBJECTIVES[recipe.objective]
    tokenizer = load_tokenizer(data.train.path / TOKENIZER)
    check_stores(manifest, data.valid.manifest, vocab_hash(tokenizer), recipe)
    set_seed(recipe.seed)
    model = MolCMIMModel(
        MolCMIMConfig.named(
            recipe.size, vocab_size=len(tokenizer), vocab_hash=manifest.vocab_hash, notation=manifest.notation,
            posterior=recipe.posterior, **recipe.model,
        )
    )  # fmt: skip
    if not needs.decoder:
        model.decoder.requires_grad_(False)
    batches = BucketedBatches(data.train, recipe.batch_size, seed=recipe.seed, mode=recipe.mode, views=needs.views)
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(recipe, Path(folder))
        arguments.eval_strategy, arguments.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        arguments.report_to = []
        trainer = PretrainTrainer(model, arguments, recipe, batches, [], token_characters(tokenizer))
        for callback in (Progress, CurveCallback):
            trainer.remove_callback(callback)
        set_seed(recipe.seed)
        trainer.train()
    return Featurizer(model, tokenizer)


def reconstruction(featurizer: Featurizer, store: TokenStore, molecules: int) -> HeldOut:
    """How a model with a decoder does on held-out molecules, canonical in and out."""
    batches = held_out_batches(store, molecules)
    return held_out(featurizer.model, batches, token_characters(featurizer.tokenizer))


class Probe:
    """A property set under the protocol of ``molcmim benchmark property``: read and split once, for many models."""

    def __init__(self, name: str, folder: Path | None) -> None:
        data = datasets.load(name, folder)
        self.smiles, self.y = data["smiles"], data["y"].to_numpy()
        self.splits = {how: [datasets.split(data, how, seed) for seed in range(n)] for how, n in SPLITS.items()}
        self._encoded: Encoded | None = None

    def read(self, featurizer: Featurizer) -> Encoded:
        """Its molecules as tokens: by the first model asked, and the same for all others, which share a tokenizer."""
        if self._encoded is None:
            self._encoded = featurizer.reader().read(self.smiles)
        return self._encoded

    def rmse(self, X: np.ndarray, split: str) -> float:
        """Test RMSE of ridge, the mean over the five random splits, or that of the scaffold split."""
        return float(np.mean([fit_head("ridge", X, self.y, parts).test_rmse for parts in self.splits[split]]))
