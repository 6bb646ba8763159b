"""Oracles: molecules -> scores by anything that can be called, each molecule once. Knows no latent space.

An oracle is a callable that takes a list of canonical SMILES and returns as many numbers. More is better.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from molcmim import smiles
from molcmim.properties import PROPERTIES, properties

Oracle = Callable[[list[str]], Any]
SIMILARITY = "similarity:"
"""What begins the name of an oracle that compares with the molecule whose SMILES follows."""
ONE = "score"
"""Name of the only objective of an oracle that has none."""


def named(name: str) -> Oracle:
    """Find a built-in oracle.

    Parameters
    ----------
    name : str
        A key of :data:`molcmim.properties.PROPERTIES`, or ``similarity:SMILES``: Tanimoto similarity to a molecule.

    Raises
    ------
    ValueError
        If there is none of that name, or the SMILES cannot be read.
    """
    if name.startswith(SIMILARITY):
        wanted = smiles.to_smiles(smiles.parse(name[len(SIMILARITY) :]))
        return functools.partial(smiles.similarities, wanted)
    if name not in PROPERTIES:
        raise ValueError(
            f"unknown oracle {name!r}; known are {', '.join(PROPERTIES)}, {SIMILARITY}SMILES, or "
            "any function of a list of SMILES (FILE.py:FUNCTION, or regressor:FOLDER)"
        )
    return functools.partial(_property, name)


def _property(name: str, molecules: list[str]) -> Any:
    return properties(molecules, [name])[:, 0]


class Score(NamedTuple):
    """What became of one molecule."""

    parts: tuple[float, ...]
    """What each objective gave; NaN if it failed."""
    total: float
    """Their weighted sum."""
    error: str | None
    """Why there is none, if there is none."""


class Scorer:
    """Weighted objectives, with a memory: no molecule is handed to an oracle twice.

    Parameters
    ----------
    oracle : callable, str, or mapping of names to these
        An oracle, the name of a built-in one, or several.
    weights : mapping of str to float, optional
        Factor of each objective in the sum; default 1. Below 0, less is better.

    Raises
    ------
    ValueError
        For an unknown name, no objective, weights of others, or no finite weight.
    """

    def __init__(
        self, oracle: Oracle | str | Mapping[str, Oracle | str], weights: Mapping[str, float] | None = None
    ) -> None:
        if not isinstance(oracle, Mapping):
            oracle = {oracle if isinstance(oracle, str) else ONE: oracle}
        self.objectives = {name: named(one) if isinstance(one, str) else one for name, one in oracle.items()}
        if not self.objectives:
            raise ValueError("oracle holds no objective")
        if unknown := [name for name in weights or {} if name not in self.objectives]:
            raise ValueError(f"weights for {', '.join(unknown)}, which the oracle lacks: {', '.join(self.objectives)}")
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in self.objectives}
        if not np.isfinite(list(self.weights.values())).all():
            raise ValueError(f"weights must be finite, got {self.weights}")
        self.known: dict[str, Score] = {}

    def score(self, molecules: Sequence[str]) -> list[Score]:
        """Score molecules, in order.

        A molecule for which an oracle raises or gives no finite number has an error; of a call that raises, the
        molecules are tried one by one.

        Raises
        ------
        ValueError
            If an oracle returns another number of scores than it was given molecules.
        """
        new = list(dict.fromkeys(molecule for molecule in molecules if molecule not in self.known))
        if new:
            columns = [_ask(name, oracle, new) for name, oracle in self.objectives.items()]
            for i, molecule in enumerate(new):
                parts, errors = zip(*(column[i] for column in columns), strict=True)
                with np.errstate(over="ignore", invalid="ignore"):
                    total = float(np.dot(parts, list(self.weights.values())))
                error = next(filter(None, errors), None)
                if not error and not np.isfinite(total):
                    total, error = np.nan, "the weighted sum is not finite"
                self.known[molecule] = Score(parts, total, error)
        return [self.known[molecule] for molecule in molecules]


def _ask(name: str, oracle: Oracle, molecules: list[str]) -> list[tuple[float, str | None]]:
    try:
        answer = oracle(list(molecules))
    except Exception as error:  # whatever a user's function may raise
        if len(molecules) > 1:
            return [_ask(name, oracle, [molecule])[0] for molecule in molecules]
        return [(np.nan, f"oracle {name}: {type(error).__name__}: {error}")]
    values = list(answer) if np.iterable(answer) else []
    if len(values) != len(molecules):
        what = f"{len(values)} scores" if np.iterable(answer) else f"{answer!r:.40}, no list"
        raise ValueError(
            f"oracle {name} was given a list of {len(molecules)} molecule(s) and returned {what}; it must return a "
            "list with one number for each, in order"
        )
    return [_number(name, value) for value in values]


def _number(name: str, value: object) -> tuple[float, str | None]:
    try:
        number = float(np.asarray(value).item())
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor that needs a gradient
        return np.nan, f"oracle {name}: {value!r:.40} is no number"
    return (number, None) if np.isfinite(number) else (np.nan, f"oracle {name}: {number}")
