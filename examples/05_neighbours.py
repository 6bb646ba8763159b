"""Aspirin's nearest neighbours among the molecules of a file, by the cosine of their latent codes, as a picture.

python examples/05_neighbours.py --query aspirin
"""

import argparse
from pathlib import Path

import pandas as pd

from molcmim import drawing, generation

HERE = Path(__file__).parent
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--molecules", type=Path, default=HERE / "molecules.csv", help="CSV with name and smiles")
parser.add_argument("--query", default="aspirin", help="a name in it")
parser.add_argument("--picture", type=Path, default=HERE / "05_neighbours.png")
parser.add_argument("--checkpoint", default="molcmim-small")
arguments = parser.parse_args()

library = pd.read_csv(arguments.molecules).set_index("name")["smiles"]
nearest = generation.neighbours(library[arguments.query], library, k=6, checkpoint=arguments.checkpoint)
nearest.insert(0, "name", library.index[nearest["row"]])
print(nearest[["name", "smiles", "cosine", "similarity"]].to_string(index=False))
legends = [f"{row.name}, cosine {row.cosine:.2f}" for row in nearest.itertuples(index=False)]
drawing.draw(list(nearest["canonical"]), legends, arguments.picture, columns=3)
