"""How a model is pretrained: one record of all choices, read from a recipe file. Knows no loop and no data."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from molcmim.config import MolCMIMConfig
from molcmim.data import MODES
from molcmim.objectives import OBJECTIVES, Settings

_NOT_OF_THE_MODEL = {"vocab_size", "vocab_hash", "notation", "posterior", "trained_decoder",
                     "num_descriptors", "pad_token_id", "bos_token_id", "eos_token_id"}  # fmt: skip
"""Settings of ``MolCMIMConfig`` that the store, the tokenizer or another choice decides."""


@dataclass(frozen=True)
class Recipe:
    """Every choice of a pretraining run.

    Attributes
    ----------
    size : str
        Named size of the model, see ``molcmim.config.SIZES``.
    model : dict
        Single settings of ``MolCMIMConfig`` that differ from the named size.
    start : str, optional
        Name or folder of a checkpoint of the same model, whose weights training begins with; its optimizer and
        schedule are new. Default: random weights.
    objective : str
        Name in ``molcmim.objectives.OBJECTIVES``.
    temperature, reduction, positive, beta
        See ``molcmim.objectives.Settings``.
    mode : {"canonical", "equivariant", "invariant"}
        What is read and what is to be written, see ``molcmim.data.BucketedBatches``.
    canonical_share : float, optional
        How often the canonical spelling is read, see ``molcmim.data.BucketedBatches``; it may change within a run.
    posterior : {"sampled", "learned", "point"}
        See ``MolCMIMConfig``; which of them an objective allows, ``molcmim.objectives.OBJECTIVES`` says.
    chemistry_factor : bool
        Whether log p(d | z) over the store's descriptors is added to the objective.
    encoder_decay, moment_decay : float
        What a step leaves of the moving-average encoder and of Lambda, for objectives that have them (MINC).
    batch_size : int
        Molecules per step, over all ranks.
    steps : int
        Optimizer steps of the whole run.
    optimizer : {"muon", "adamw"}
        "muon" is Muon for matrices and AdamW for the rest, see ``molcmim.optimizer``.
    learning_rate, warmup_steps, decay_share
        Peak of the schedule, its linear warm-up, and the last share of the steps, over which it falls to 0
        (1 - sqrt shape, Haegele et al., arXiv 2405.18392); constant in between.
    weight_decay, max_grad_norm
        Of the matrices, and the gradient norm that is clipped to.
    precision : {"bf16", "fp32"}
        Of the network while training, "bf16" only where it is fast. Objectives are float32 in any case.
    compile : bool
        Whether layers go through ``torch.compile``, see ``MolCMIMModel.compile_layers``; on one GPU, steps are captured
        as CUDA graphs besides, see ``molcmim.captured``.
    seed : int
        Of everything that is drawn.
    log_every, evaluate_every, save_every : int
        Steps between log lines, held-out evaluations, and checkpoints.
    evaluate_molecules : int
        How many held-out molecules are evaluated on while training.
    loader_workers : int
        Processes that make batches ahead of the model; 0 for none: on a GPU the store is then held in its memory.
    """

    size: str = "small"
    model: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    objective: str = "cmim"
    temperature: float = 1.0
    reduction: str = "mean"
    positive: str = "z"
    beta: float = 1.0
    mode: str = "invariant"
    canonical_share: float | None = None
    posterior: str = "sampled"
    chemistry_factor: bool = False
    encoder_decay: float = 0.99
    moment_decay: float = 0.9
    batch_size: int = 256
    steps: int = 1000
    optimizer: str = "muon"
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_share: float = 0.3
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    precision: str = "bf16"
    compile: bool = False
    seed: int = 0
    log_every: int = 20
    evaluate_every: int = 500
    evaluate_molecules: int = 512
    save_every: int = 500
    loader_workers: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {self.objective!r}; known are {', '.join(OBJECTIVES)}")
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; known are {', '.join(MODES)}")
        if self.optimizer not in ("muon", "adamw"):
            raise ValueError(f"optimizer must be 'muon' or 'adamw', got {self.optimizer!r}")
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision must be 'bf16' or 'fp32', got {self.precision!r}")
        if self.canonical_share is not None and self.mode == "canonical":
            raise ValueError("canonical_share is for modes that read random spellings, and mode is 'canonical'")
        if self.canonical_share is not None and not 0 <= self.canonical_share <= 1:
            raise ValueError(f"canonical_share must be in [0, 1], got {self.canonical_share}")
        self.settings  # noqa: B018 - refuses bad values now, not after the first batch
        if taken := sorted(self.model.keys() & _NOT_OF_THE_MODEL):
            raise ValueError(f"model sets {', '.join(taken)}, which the store or another choice of the recipe decides")
        MolCMIMConfig.named(self.size, posterior=self.posterior, **self.model)  # the same
        needs = OBJECTIVES[self.objective]
        if self.posterior not in needs.posteriors:
            raise ValueError(
                f"objective {self.objective!r} needs posterior {' or '.join(map(repr, needs.posteriors))}, "
                f"not {self.posterior!r}"
            )
        if needs.views == 2 and self.mode == "canonical":
            raise ValueError(
                f"objective {self.objective!r} compares two spellings of a molecule, mode 'canonical' reads one; "
                "use mode 'invariant' or 'equivariant'"
            )
        for name, least in (
            ("batch_size", 1), ("steps", 1), ("log_every", 1), ("evaluate_every", 1), ("save_every", 1),
            ("evaluate_molecules", 1), ("learning_rate", 0), ("warmup_steps", 0), ("decay_share", 0),
            ("weight_decay", 0), ("max_grad_norm", 0), ("seed", 0), ("loader_workers", 0),
        ):  # fmt: skip
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite, and at least {least}, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"seed must be less than 2**32, got {self.seed}")
        for name in ("encoder_decay", "moment_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"{self.warmup_steps} warm-up steps and a decay over {self.decay_share} of the run do not fit into "
                f"{self.steps} steps; lower warmup_steps or decay_share"
            )

    @property
    def decay_steps(self) -> int:
        """Steps over which the learning rate falls."""
        return math.ceil(self.decay_share * self.steps)

    @property
    def settings(self) -> Settings:
        """What the objective function gets."""
        return Settings(self.temperature, self.reduction, self.positive, self.beta)

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str], **overrides: Any) -> Recipe:
        """Read a recipe that the package carries, by name, or any YAML file; single choices overridden.

        ``Recipe.load("small", steps=100, **{"model.width": 128})`` overrides a single setting of the model.

        Raises
        ------
        FileNotFoundError
            If there is no such recipe; the message lists those that the package carries.
        ValueError
            If it sets something that is not a choice, or sets it to what is not allowed.
        """
        carried = resources.files("molcmim") / "recipes"
        path = Path(name_or_path)
        if not path.is_file():
            known = sorted(entry.name.removesuffix(".yaml") for entry in carried.iterdir())
            if str(name_or_path) not in known:
                raise FileNotFoundError(
                    f"no recipe {str(name_or_path)!r}; known are {', '.join(known)}, or a YAML file"
                )
            text = (carried / f"{name_or_path}.yaml").read_text()
        else:
            text = path.read_text()
        try:
            choices = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"recipe {name_or_path} is no YAML: {error}") from None
        if not isinstance(choices, dict):
            raise ValueError(f"recipe {name_or_path} holds no choices, lines of the form `steps: 500`: {choices!r:.80}")
        for name, value in overrides.items():
            name, dot, inner = name.partition(".")
            if dot and name != "model":
                raise ValueError(f"only the model has choices of its own, as model.width; got {name}.{inner}")
            choices[name] = {**(choices.get(name) or {}), inner: value} if dot else value
        types = {f.name: str(f.type) for f in dataclasses.fields(cls)}
        if unknown := sorted(map(str, choices.keys() - types.keys())):
            raise ValueError(f"recipe {name_or_path} sets unknown {', '.join(unknown)}; known are {', '.join(types)}")
        choices = {name: typed(name, value, types[name]) for name, value in choices.items()}
        of_model = {name: p.annotation for name, p in inspect.signature(MolCMIMConfig).parameters.items()}
        choices["model"] = {
            name: typed(f"model.{name}", value, of_model.get(name, "Any"))
            for name, value in (choices.get("model") or {}).items()
        }
        return cls(**choices)

    def dump(self) -> str:
        """Return the recipe as YAML."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


def typed(name: str, value: Any, expected: str) -> Any:
    """Return the value of a choice, as the type that its field has; ValueError if it is of another."""
    if expected.endswith(" | None"):
        if value is None:
            return None
        expected = expected.removesuffix(" | None")
    if expected == "float" and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML takes 1e-3 for a string, only 1.0e-3 for a number
    kinds: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "dict[str, Any]": dict}
    if type(value) is not kinds.get(expected, type(value)):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return value
