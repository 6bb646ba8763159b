"""Molecules: the main door to RDKit, and the one gate where input is judged. Knows no token and no file.

Every function keeps RDKit's log quiet while it runs, and leaves the log's settings as they were.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from rdkit import Chem, DataStructs
from rdkit.Chem import Fragments, rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.rdBase import BlockLogs, CaptureErrorLog
from rdkit.SimDivFilters import rdSimDivPickers


class BadMolecule(NamedTuple):
    """A molecule that could not be used."""

    row: int
    """Position in the input, counted from 0."""
    molecule: object
    """What stood there."""
    reason: str
    """Why it was refused, for a chemist to read."""


class MoleculeError(ValueError):
    """Some molecules of an input cannot be used.

    Attributes
    ----------
    rows : list of BadMolecule
        All of them, in input order. The message names every row and shows the first five in full.
    """

    def __init__(self, rows: list[BadMolecule]) -> None:
        super().__init__(rows)
        self.rows = rows

    def __str__(self) -> str:
        shown = [f"  row {row}: {molecule!r:.80}: {reason}" for row, molecule, reason in self.rows[:5]]
        if len(self.rows) > 5:
            shown.append(f"  and {len(self.rows) - 5} more")
        runs = itertools.groupby(enumerate(bad.row for bad in self.rows), lambda numbered: numbered[1] - numbered[0])
        numbers = ([str(row) for _, row in run] for _, run in runs)
        where = ", ".join(", ".join(run) if len(run) < 3 else f"{run[0]}-{run[-1]}" for run in numbers)
        head = f"{len(self.rows)} bad molecule(s), row(s) {where}:"
        return "\n".join([head, *shown, "Correct or remove them (or choose another on_error, where there is one)."])


def refuse(rows: Any, reasons: Sequence[str | None]) -> None:
    """Raise one MoleculeError that names every row (of a list or array) with a reason against it, if there is any."""
    if bad := [BadMolecule(row, rows[row], reason) for row, reason in enumerate(reasons) if reason is not None]:
        raise MoleculeError(bad)


_LOG = threading.RLock()
MAX_CHARACTERS = 5000
"""Longest SMILES that is read. RDKit's time grows with the square of the length, and a chain of 30,000 atoms
overflows the stack and takes the process along."""

_PLAIN_SMILES = Chem.SmilesParserParams()
_PLAIN_SMILES.allowCXSMILES = False
_PLAIN_SMILES.parseName = False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep RDKit's log quiet, and to one thread: it is the process's, and two that capture it at once end it."""
    with _LOG, BlockLogs():
        yield


def parse(molecule: object) -> Chem.Mol:
    """Read one molecule.

    A Mol is written and read again, so that what comes back depends on the molecule alone: not on explicit
    hydrogens, conformers, properties, or whether it was sanitised.

    Parameters
    ----------
    molecule : str or Mol
        White space around a SMILES is ignored; anything after it (a name, CXSMILES) is an error.

    Raises
    ------
    ValueError
        With the reason alone, in RDKit's words where it is RDKit that refuses.
    """
    if isinstance(molecule, Unreadable):
        raise ValueError(molecule.reason)
    with quiet(), CaptureErrorLog() as log:
        if isinstance(molecule, Chem.Mol):
            if not 0 < molecule.GetNumAtoms() <= MAX_CHARACTERS:
                raise ValueError(f"{molecule.GetNumAtoms():,} atoms; 1 to {MAX_CHARACTERS:,} are read")
            if any(atom.HasQuery() and atom.GetAtomicNum() for atom in molecule.GetAtoms()):
                raise ValueError("a query, such as SMARTS make, and no molecule")  # * is one, but may stand anywhere
            molecule = Chem.MolToSmiles(molecule)
        if not isinstance(molecule, str):
            shown = f" ({molecule})" if isinstance(molecule, int | float) else ""
            raise ValueError(f"not a string or RDKit Mol but {type(molecule).__name__}{shown}")
        smiles = molecule.strip()
        if not smiles:
            raise ValueError("empty string")
        if len(smiles) > MAX_CHARACTERS:
            raise ValueError(f"{len(smiles):,} characters; at most {MAX_CHARACTERS:,} are read")
        if alien := re.search(r"[^!-~]", smiles):  # RDKit stops there or skips it, in silence
            extended = " (a CXSMILES extension? leave it out)" if re.search(r"\s\|.*\|$", smiles) else ""
            raise ValueError(f"{alien[0]!r} at character {alien.start() + 1} belongs to no SMILES{extended}")
        mol = Chem.MolFromSmiles(smiles, _PLAIN_SMILES)
    if mol is None:
        raise ValueError(_reason(log.messages))
    return mol


class Unreadable(NamedTuple):
    """What stands for a molecule whose structure could not be read: for this gate, a bad one."""

    reason: str
    """Why not."""

    def __str__(self) -> str:
        """Nothing: there is no text of it."""
        return ""


def from_mol_block(block: str) -> str | Unreadable:
    """Write the canonical SMILES of a MOL block, V2000 or V3000, if RDKit can read it and it is not too large."""
    if not block.strip():
        return Unreadable("a record without a whole MOL block, which ends with M  END")
    with quiet(), CaptureErrorLog() as log:
        mol = Chem.MolFromMolBlock(block)
        if mol is None:
            return Unreadable(_reason(log.messages))
        if mol.GetNumAtoms() > MAX_CHARACTERS:
            return Unreadable(f"{mol.GetNumAtoms():,} atoms; at most {MAX_CHARACTERS:,} are read")
        return Chem.MolToSmiles(mol) or Unreadable("a structure without atoms")


def _reason(log: str) -> str:
    """Tell a chemist what RDKit's error log says.

    >>> _reason("[12:00:00] SMILES Parse Error: unclosed ring for input: 'C1CC'")
    'unclosed ring'
    """
    if violated := re.search(r"Violation\n(.+)", log):  # one of RDKit's own checks, told with all of its stack
        return violated[1]
    first = re.sub(r"^\[[\d:]+\] (SMILES Parse Error: )?", "", log.partition("\n")[0])
    what = re.sub(r" (while parsing|for input):.*", "", first)
    where = re.search(r"around position (\d+)", log)
    return f"{what} around character {where[1]}" if where else what or "RDKit cannot read it"


def to_smiles(mol: Chem.Mol) -> str:
    """Canonical isomeric SMILES."""
    return Chem.MolToSmiles(mol)


def canonicalize(molecules: Iterable[object], standardize: bool = False) -> tuple[list[str | None], list[str | None]]:
    """Judge many molecules: the gate that all input passes.

    Parameters
    ----------
    molecules : iterable of str or Mol
        Anything else in it is a bad molecule, not an error.
    standardize : bool
        Whether to apply :func:`standardize` first.

    Returns
    -------
    smiles : list of str or None
        Canonical SMILES, None for a bad molecule; one an input, in input order.
    reasons : list of str or None
        Why a molecule is bad, None for a good one.
    """
    read = _read_standardized if standardize else parse
    smiles: list[str | None] = []
    reasons: list[str | None] = []
    for molecule in molecules:  # whatever it waits for, other threads may read meanwhile
        try:
            with quiet():
                smiles.append(to_smiles(read(molecule)))
            reasons.append(None)
        except ValueError as error:
            smiles.append(None)
            reasons.append(str(error))
    return smiles, reasons


_LARGEST_FRAGMENT = rdMolStandardize.LargestFragmentChooser(preferOrganic=True)
_UNCHARGER = rdMolStandardize.Uncharger()


def standardize(mol: Chem.Mol) -> Chem.Mol:
    """Bring a molecule into the form that the pretraining corpus has.

    Atom-map numbers are dropped, the largest fragment is kept (one with carbon if there is any), and charges
    are neutralised where adding or taking hydrogen does it.
    """
    with quiet():
        mol = Chem.Mol(mol)
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
        return parse(_UNCHARGER.uncharge(_LARGEST_FRAGMENT.choose(mol)))


def _read_standardized(molecule: object) -> Chem.Mol:
    return standardize(parse(molecule))


def random_spellings(mol: Chem.Mol, k: int, seed: int) -> list[str]:
    """Draw `k` random SMILES of a molecule; the same `seed` (any int) gives the same ones."""
    # RDKit's generator takes 1 to 2^31 - 2 as they are, and 0 for "unseeded"
    return list(Chem.MolToRandomSmilesVect(mol, k, randomSeed=1 + seed % (2**31 - 2)))


def murcko_scaffold(smiles: str) -> str:
    """Bemis-Murcko scaffold without stereochemistry, as canonical SMILES; empty for an acyclic molecule."""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=parse(smiles), includeChirality=False)


# All properties that RDKit computes in C++ from the graph, but for the indices over paths of two bonds and
# more (Phi is a product of one): these nine alone take nearly as long as the rest.
_LEFT_OUT = {"chi2n", "chi2v", "chi3n", "chi3v", "chi4n", "chi4v", "kappa2", "kappa3", "Phi"}
_PROPERTIES = rdMolDescriptors.Properties(
    [name for name in rdMolDescriptors.Properties.GetAvailableProperties() if name not in _LEFT_OUT]
)
_VECTORS = {
    "SlogP_VSA": rdMolDescriptors.SlogP_VSA_,
    "SMR_VSA": rdMolDescriptors.SMR_VSA_,
    "PEOE_VSA": rdMolDescriptors.PEOE_VSA_,
}
DESCRIPTOR_NAMES: tuple[str, ...] = (
    *_PROPERTIES.GetPropertyNames(),
    *(name for name, _ in Fragments.fns),
    *(f"{name}{i + 1}" for name, f in _VECTORS.items() for i in range(len(f(Chem.MolFromSmiles("C"))))),
)
"""What :func:`descriptors` returns, in order: RDKit's names, those of fragments too, vectors numbered from 1."""


def descriptors(mol: Chem.Mol) -> Float32[np.ndarray, " p"]:
    """Physical and topological descriptors of a molecule and counts of its fragments, raw, in RDKit's units.

    Returns
    -------
    ndarray of float32, shape (len(DESCRIPTOR_NAMES),)
        All finite: where RDKit has no finite value (an element without parameters) stands 0.
    """
    with quiet():
        values = [*_PROPERTIES.ComputeProperties(mol), *(count(mol) for _, count in Fragments.fns)]
        for vector in _VECTORS.values():
            values += vector(mol)
    return np.nan_to_num(np.array(values, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _morgan(mol: Chem.Mol) -> Any:
    return _MORGAN.GetCountFingerprintAsNumPy(mol)


def _maccs(mol: Chem.Mol) -> Any:
    return list(rdMolDescriptors.GetMACCSKeysFingerprint(mol))


def _rdkit2d(mol: Chem.Mol) -> Any:
    from rdkit.Chem import Descriptors  # slow to load

    return list(Descriptors.CalcMolDescriptors(mol, missingVal=np.nan, silent=True).values())


def rdkit2d_names() -> list[str]:
    """Names of the columns of ``fingerprints(molecules, "rdkit2d")``; they grow with RDKit's versions."""
    from rdkit.Chem import Descriptors

    return [name for name, _ in Descriptors.descList]


_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
FINGERPRINTS: dict[str, Callable[[Chem.Mol], Any]] = {"morgan": _morgan, "rdkit2d": _rdkit2d, "maccs": _maccs}
"""Classical features: counts of Morgan environments (radius 2, folded to 2,048; Rogers & Hahn, J. Chem. Inf. Model.
2010, 50, 742), all of ``rdkit.Chem.Descriptors``, the 166 MACCS keys (and an empty key 0)."""

LARGEST_FEATURE = 1e6
"""RDKit's Ipc grows without bound, to 1e12 in ESOL, and would leave nothing of itself once standardised."""


def fingerprints(molecules: Iterable[object], kind: str) -> Float32[np.ndarray, "n p"]:
    """Compute classical features, to compare embeddings with.

    Parameters
    ----------
    molecules : iterable of str or Mol
        All readable.
    kind : {"morgan", "rdkit2d", "maccs"}
        A key of :data:`FINGERPRINTS`.

    Returns
    -------
    ndarray of float32, shape (n, p)
        All finite: an undefined value is 0, and none is beyond :data:`LARGEST_FEATURE`.

    Raises
    ------
    ValueError
        For an unknown kind, or a molecule that cannot be read, with RDKit's reason.
    """
    if kind not in FINGERPRINTS:
        raise ValueError(f"unknown fingerprint {kind!r}; known are {', '.join(FINGERPRINTS)}")
    with quiet():
        rows = [FINGERPRINTS[kind](parse(molecule)) for molecule in molecules]
    values = np.nan_to_num(np.array(rows, np.float64)).clip(-LARGEST_FEATURE, LARGEST_FEATURE)
    return values.astype(np.float32)


def packed_bits(molecules: Iterable[str]) -> UInt8[np.ndarray, "n 256"]:
    """Morgan fingerprints as :func:`similarities` has them, eight bits a byte (:func:`numpy.packbits`).

    Parameters
    ----------
    molecules : iterable of str
        Readable SMILES.
    """
    with quiet():
        rows = [_MORGAN.GetFingerprintAsNumPy(parse(molecule)) for molecule in molecules]
    return np.packbits(np.array(rows, np.uint8).reshape(len(rows), 2048), axis=1)


def leaders(molecules: Sequence[str], similarity: float) -> list[int]:
    """Pick molecules none of which is as similar to another as given, and of which each that is left out is to one.

    Parameters
    ----------
    molecules : sequence of str
        Readable SMILES; the first is picked, and so on in their order.
    similarity : float
        Tanimoto similarity of Morgan fingerprints, as :func:`similarities` has it.
    """
    with quiet():
        prints = [_MORGAN.GetFingerprint(parse(molecule)) for molecule in molecules]
    return list(rdSimDivPickers.LeaderPicker().LazyBitVectorPick(prints, len(prints), 1 - similarity))


def similarities(query: str, molecules: Sequence[str | None]) -> Float64[np.ndarray, " n"]:
    """Tanimoto similarity of molecules to one of them: Morgan fingerprints, radius 2, 2,048 bits, no chirality.

    Parameters
    ----------
    query : str
        Readable SMILES.
    molecules : sequence of str or None
        Readable SMILES; None has the similarity NaN.
    """
    with quiet():
        wanted = _MORGAN.GetFingerprint(parse(query))
        known = [i for i, molecule in enumerate(molecules) if molecule is not None]
        prints = [_MORGAN.GetFingerprint(parse(molecules[i])) for i in known]
    similarity = np.full(len(molecules), np.nan)
    similarity[known] = DataStructs.BulkTanimotoSimilarity(wanted, prints)
    return similarity
