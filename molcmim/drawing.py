"""Pictures of molecules: a grid of structures with a legend each. Another door to RDKit, to its drawing alone."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rdkit.Chem.Draw import rdMolDraw2D

from molcmim import smiles
from molcmim.atomic import atomic_path

CELL = (260, 220)
"""Width and height of a molecule's place, in pixels."""
LEGEND = 32
"""Characters there is room for below it."""
COLUMNS = 6
MOST_ROWS = 60
"""Rows of a frame in a picture; of more, the first ones are drawn."""
LEGENDS = {
    "position": "{:.2f}",
    "cosine": "cosine {:.2f}",
    "score": "score {:.3g}",
    "similarity": "similarity {:.2f}",
    "similarity_a": "to a {:.2f}",
    "similarity_b": "to b {:.2f}",
}
"""Columns of a frame that a legend shows, and how."""


def draw(
    molecules: Sequence[str],
    legends: Sequence[str],
    path: str | os.PathLike[str],
    columns: int = COLUMNS,
) -> None:
    """Draw molecules in rows, as a PNG file.

    Parameters
    ----------
    molecules : sequence of str
        Readable SMILES; in the place of an empty one stands "not valid".
    legends : sequence of str
        What stands below each, cut to what there is room for.
    path
        File to write.
    columns : int
        Molecules in a row.
    """
    columns = min(columns, len(molecules))
    width, height = CELL
    picture = rdMolDraw2D.MolDraw2DCairo(width * columns, height * math.ceil(len(molecules) / columns), width, height)
    picture.drawOptions().legendFontSize = 15
    picture.drawOptions().fixedBondLength = 25  # at most: what does not fit is drawn smaller
    legends = [text if len(text) <= LEGEND else f"{text[: LEGEND - 3]}..." for text in legends]
    picture.DrawMolecules([_drawable(molecule) for molecule in molecules], legends=legends)
    picture.FinishDrawing()
    with atomic_path(path) as partial:
        partial.write_bytes(picture.GetDrawingText())


def _drawable(molecule: str) -> Any:
    mol = smiles.parse(molecule or "*")
    if not molecule:  # RDKit leaves out the legend of no molecule
        mol.GetAtomWithIdx(0).SetProp("atomLabel", "not valid")
    return rdMolDraw2D.PrepareMolForDrawing(mol)


def draw_frame(frame: pd.DataFrame, path: str | os.PathLike[str], strip: bool = False) -> int:
    """Draw what a function of :mod:`molcmim.generation` returned; in one row if `strip`.

    Before what was decoded stands what it came from. A string that is not valid is written out; a row that nothing was
    decoded for has no place.

    Returns
    -------
    int
        How many rows of the frame are in the picture.
    """
    rows = frame[frame["smiles"].notna()].head(MOST_ROWS).to_dict("records")
    molecules, legends = ([frame.attrs["query"]], ["query"]) if "query" in frame.attrs else ([], [])
    origin = None
    for row in rows:
        for name in {"seed", "input", "query"} & row.keys():
            if name == "input" or row[name] != origin:
                molecules.append(row[name])
                legends.append(name)
            origin = row[name]
        said = [text.format(row[name]) for name, text in LEGENDS.items() if name in row]
        molecules.append(row["canonical"] if row["valid"] else "")
        legends.append((", ".join(said) or f"log-likelihood {row['log_prob']:.1f}") if row["valid"] else row["smiles"])
    if molecules:
        draw(molecules, legends, path, len(molecules) if strip else COLUMNS)
    return len(rows)
