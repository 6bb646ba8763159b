"""Embed the molecules of a CSV file, keep what can be embedded, and save the vectors with the molecules' names.

python examples/01_featurize.py --embedding both --output embeddings.npz
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from molcmim import Featurizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--molecules", default=Path(__file__).with_name("molecules.csv"), help="CSV with name and smiles")
parser.add_argument("--embedding", default="mean", choices=["mean", "informative", "both", "descriptors"])
parser.add_argument("--output", default="embeddings.npz")
parser.add_argument("--checkpoint", default="molcmim-small")
arguments = parser.parse_args()

molecules = pd.read_csv(arguments.molecules)
molecules.loc[len(molecules)] = {"name": "a slip of the pen", "smiles": "C1CC"}

featurizer = Featurizer.from_pretrained(arguments.checkpoint)
X, kept = featurizer.featurize(molecules["smiles"], arguments.embedding, on_error="skip")
np.savez(arguments.output, X=X, name=molecules["name"].to_numpy(str)[kept])
print(f"{len(X)} of {len(molecules)} molecules, {X.shape[1]} dimensions, in {arguments.output}")

# However a molecule is written, it has one vector.
ethanol = featurizer.featurize(["CCO", "OCC", "C(O)C"], arguments.embedding)
assert (ethanol == ethanol[0]).all()
