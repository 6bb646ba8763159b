"""Molecules with a value that can be computed, and the command line called on tables of them."""

from __future__ import annotations

from typing import Any

from rdkit import Chem
from rdkit.Chem import Crippen
from stores import MOLECULES
from typer.testing import CliRunner

from molcmim.cli import app

SMILES = [text for text, _ in MOLECULES]
LOGP = [Crippen.MolLogP(Chem.MolFromSmiles(text)) for text in SMILES]


def command(*arguments: object, **options: Any) -> Any:
    """Call `molcmim` with arguments."""
    return CliRunner().invoke(app, [*map(str, arguments)], **options)
