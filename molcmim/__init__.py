"""molcmim: molecules in, vectors out, and back.

Importing the package loads none of torch, transformers, rdkit and deepchem: a public name is imported when it
is first asked for (PEP 562). transformers' ``AutoConfig`` and ``AutoModel`` know the model all the same, in
whichever order the two packages are imported: `molcmim.config` and `molcmim.model` enter themselves at their
end, and they are imported right after the transformers module that holds the registry: now if that is loaded,
else as soon as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from molcmim import datasets, deepchem, generation, objectives, sklearn
    from molcmim.config import MolCMIMConfig
    from molcmim.featurizer import Featurizer
    from molcmim.model import MolCMIMModel
    from molcmim.smiles import MoleculeError

__version__ = "0.1.0"

__all__ = [
    "Featurizer",
    "MolCMIMConfig",
    "MolCMIMModel",
    "MoleculeError",
    "datasets",
    "deepchem",
    "generation",
    "objectives",
    "sklearn",
]

_ROOMS = {
    "Featurizer": "featurizer",
    "MolCMIMConfig": "config",
    "MolCMIMModel": "model",
    "MoleculeError": "smiles",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'molcmim' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(f"molcmim.{_ROOMS.get(name, name)}")
    return getattr(module, name) if name in _ROOMS else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Registration(MetaPathFinder):
    """Imports a room of ours right after the transformers module whose registry it enters itself in."""

    rooms: ClassVar = {
        "transformers.models.auto.configuration_auto": "molcmim.config",
        "transformers.models.auto.modeling_auto": "molcmim.model",
    }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        room = self.rooms.pop(fullname, None)
        spec = importlib.util.find_spec(fullname) if room else None
        if room is None or spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            importlib.import_module(room)

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


for _name in [name for name in _Registration.rooms if name in sys.modules]:
    importlib.import_module(_Registration.rooms.pop(_name))
sys.meta_path.insert(0, _Registration())
