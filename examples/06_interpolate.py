"""From ibuprofen to paracetamol: molecules on the line between their latent codes, as a strip.

python examples/06_interpolate.py --steps 7
"""

import argparse
from pathlib import Path

from molcmim import drawing, generation

IBUPROFEN, PARACETAMOL = "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "CC(=O)Nc1ccc(O)cc1"
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=7, help="codes on the way, both ends among them")
parser.add_argument("--path", default="linear", help="linear or spherical")
parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".png"))
parser.add_argument("--checkpoint", default="molcmim-small")
arguments = parser.parse_args()

way = generation.interpolate(
    IBUPROFEN, PARACETAMOL, arguments.steps, path=arguments.path, checkpoint=arguments.checkpoint
)
print(way[["position", "smiles", "valid", "similarity_a", "similarity_b"]].to_string(index=False))
drawing.draw_frame(way, arguments.picture, strip=True)
