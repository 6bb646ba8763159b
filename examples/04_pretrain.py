"""Pretrain a tiny model on a file of molecules, from SMILES to a checkpoint to embeddings. Takes a minute on a CPU.

    python examples/04_pretrain.py --molecules examples/molecules.csv --output RUN

For a real model use the command line, `molcmim prepare` and `molcmim pretrain --recipe small`, and a million molecules.
"""

import argparse
from pathlib import Path

from molcmim import Featurizer
from molcmim.prepare import StoreRecipe, prepare
from molcmim.pretrain import pretrain
from molcmim.recipe import Recipe

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--molecules", default=Path(__file__).with_name("molecules.csv"))
parser.add_argument("--output", type=Path, required=True, help="folder of the run; the same command goes on with it")
parser.add_argument("--steps", type=int, default=100)
arguments = parser.parse_args()

if __name__ == "__main__":  # worker processes read this file again
    store = arguments.output / "store"
    if not store.exists():
        prepare([arguments.molecules], store, recipe=StoreRecipe(spellings=4))
    recipe = Recipe.load("tiny", steps=arguments.steps, batch_size=32, evaluate_molecules=32)
    checkpoint = pretrain(store, store, arguments.output / "run", recipe)
    print(Featurizer.from_pretrained(checkpoint).featurize(["CCO", "OCC"]).round(2))
