"""Embed the molecules of a CSV file and list the nearest neighbours of one of them.

python examples/01_neighbours.py --query aspirin
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from molcmim import Featurizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--molecules", default=Path(__file__).with_name("molecules.csv"), help="CSV with name and smiles")
parser.add_argument("--query", default="aspirin", help="a name in it")
parser.add_argument("--checkpoint", default="molcmim-small")
arguments = parser.parse_args()

molecules = pd.read_csv(arguments.molecules)
X = Featurizer.from_pretrained(arguments.checkpoint).featurize(molecules["smiles"], embedding="mean")
X = X - X.mean(axis=0)
X /= np.linalg.norm(X, axis=1, keepdims=True)
molecules["cosine"] = X @ X[molecules["name"].tolist().index(arguments.query)]
print(molecules.nlargest(6, "cosine").to_string(index=False))
