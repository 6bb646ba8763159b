"""Raise QED near a molecule, with an oracle of one's own: any function of a list of SMILES.

python examples/07_optimize.py --calls 200
"""

import argparse
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import QED

from molcmim import drawing, generation

FENOFIBRATE = "CC(C)OC(=O)C(C)(C)Oc1ccc(C(=O)c2ccc(Cl)cc2)cc1"
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", default=FENOFIBRATE, help="SMILES to begin at")
parser.add_argument("--calls", type=int, default=100, help="molecules that may be scored")
parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".png"))
parser.add_argument("--checkpoint", default="molcmim-small")
arguments = parser.parse_args()


def drug_likeness(molecules: list[str]) -> list[float]:
    return [QED.qed(Chem.MolFromSmiles(molecule)) for molecule in molecules]


evaluations = generation.optimize(
    arguments.seed, drug_likeness, calls=arguments.calls, min_similarity=0.4, checkpoint=arguments.checkpoint
)
winners = generation.best(evaluations, k=5)
print(winners[["smiles", "score", "gain", "similarity", "call"]].to_string(index=False))
drawing.draw_frame(winners, arguments.picture)
