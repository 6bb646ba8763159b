"""SD files as rows of text: the structure's SMILES, the title, and every data item. Knows the format, no chemistry.

Dalby et al., J. Chem. Inf. Comput. Sci. 32, 1992 (CTfile formats): a record is a MOL block, data items (a line
``> <name>``, lines of text, a blank line), and a line ``$$$$``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

END = "$$$$"
MARK = "\0"
"""What a text begins with that is no SMILES but why there is none."""
_ITEM = re.compile(r">[^<]*<(.+)>")


class Record(NamedTuple):
    """One molecule of a file."""

    block: str
    """Its MOL block."""
    title: str
    """The block's first line."""
    items: dict[str, str]
    """Data item -> text; of several of one name the last."""


def records(lines: Iterable[str]) -> Iterator[Record]:
    """Cut a file; text after its last ``$$$$`` is a record too, as is a MOL file."""
    own: list[str] = []
    for line in lines:
        line = line.rstrip("\r\n")
        if line.startswith(END):
            yield _record(own)
            own = []
        else:
            own.append(line)
    if any(line.strip() for line in own):
        yield _record(own)


def _record(lines: list[str]) -> Record:
    end = next((i + 1 for i, line in enumerate(lines) if line.startswith("M  END")), 0)  # without it there is no block
    items: dict[str, str] = {}
    texts: list[str] = []
    name = None
    for line in [*lines[end:], ""]:
        if name is None:
            found = _ITEM.match(line)
            name, texts = found[1] if found else None, []
        elif line.strip():
            texts.append(line)
        else:
            items[name] = "\n".join(texts)
            name = None
    return Record("\n".join(lines[:end]), lines[0].strip() if lines else "", items)


def item_names(lines: Iterable[str]) -> list[str]:
    """Names of all data items, in the order in which they come first."""
    return list(dict.fromkeys(name for record in records(lines) for name in record.items))


def rows(lines: Iterable[str], names: list[str]) -> Iterator[list[str]]:
    """Yield a header, then a row a record: no text where no item is, :data:`MARK` and why where there is no SMILES.

    A data item that is named as a column of ours is numbered.
    """
    from molcmim.smiles import from_mol_block

    header = ["smiles", "name"]
    for name in names:
        while name in header:
            name += " (2)"
        header.append(name)
    yield header
    for record in records(lines):
        block = record.block.encode(errors="replace").decode()  # what is not UTF-8 is no part of a structure
        structure = from_mol_block(block)
        text = structure if isinstance(structure, str) else MARK + structure.reason
        yield [text, record.title, *(record.items.get(name, "") for name in names)]
