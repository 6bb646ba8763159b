"""What is an informative embedding worth, and where does its worth come from? Three property sets, frozen, ridge.

    python examples/informative.py compare --store TRAIN --valid VALID [--data FOLDER]
    python examples/informative.py ablate  --store TRAIN --valid VALID [--data FOLDER]
    python examples/informative.py recipe  --store TRAIN --valid VALID [--data FOLDER]
    python examples/informative.py anatomy --store TRAIN --valid VALID [--data FOLDER]
    python examples/informative.py compare --quick                                      # likewise the others

compare  MIM, cMIM, cMIM-sum, AE, VAE, cVAE and InfoNCE-X at one budget: mean, informative and both, with exact
         reconstruction, and a model of random weights (untrained) as the floor; a two-way analysis of variance of the
         RMSE (objective, embedding; replicates: seeds of pretraining), and the gain from MIM's mean to cMIM's
         informative embedding, split between the two causes.
ablate   cMIM over tau and over latent_dim.
recipe   cMIM over the latent vectors K that read, the memory vectors M that write, and the schedule's decay, at a
         latent_dim that is half of what K = 4 vectors hold, as in molcmim-small.
anatomy  The informative embedding of cMIM, or of any --checkpoint, by decoder layer, by pooling, and read while the
         decoder is told the molecule (teacher forcing) or writes what it believes it to be.

Training is with the tiny model, of one layer each where many are trained (all but anatomy), its latent as wide as its
decoder (compare), on token stores of `molcmim prepare --spellings`. An RMSE is the mean over five random splits, or
that of the scaffold split. Writes informative_<experiment>*.csv and .png. What a run scored is kept in --runs as it
ends and not done again.
"""

import argparse
import functools
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from short_runs import SPLITS, Probe, Stores, kept, reconstruction, stores, trained

from molcmim import Featurizer, datasets
from molcmim.atomic import atomic_path
from molcmim.data import gather
from molcmim.decoding import decode_ids
from molcmim.model import MolCMIMModel
from molcmim.reading import Encoded

OBJECTIVES = ("mim", "cmim", "cmim-sum", "ae", "vae", "cvae", "infonce-x")
EMBEDDINGS = ("mean", "informative", "both")
TAUS = (0.1, 0.3, 1.0, 3.0)
LATENT_DIMS = (64, 128, 256, 512)
TAU, LATENT_DIM, DECAY_SHARE = 1.0, 64, 0.3
LAYERS = {"encoder_layers": 1, "decoder_layers": 1}
RECIPE: dict[str, Any] = {"latent_dim": 128, "num_latents": 4, "memory_tokens": 4, "decay_share": DECAY_SHARE}
VARIED = {"num_latents": (1, 2, 4, 8), "memory_tokens": (1, 4, 8), "decay_share": (0.0, DECAY_SHARE, 0.9)}
BATCH = 128


class Setup(NamedTuple):
    data: Stores | None
    runs: Path
    probes: dict[str, Probe]
    seeds: int
    batch_size: int
    steps: int
    held_out: int
    quick: bool
    checkpoint: str | None

    def train(self, objective: str, seed: int, **choices: Any) -> Featurizer:
        assert self.data is not None
        budget = {"batch_size": self.batch_size, "steps": self.steps}
        return trained(self.data, objective=objective, seed=seed, **{**budget, **choices})

    def scores(
        self, objective: str, seed: int, tau: float = TAU, latent_dim: int = LATENT_DIM, **more: Any
    ) -> pd.DataFrame:
        """Embedding, set, split, RMSE and how well held-out molecules are decoded, of one run."""
        others = "".join(f"-{name}{value:g}" for name, value in more.items())
        run = f"{objective}-tau{tau:g}-latent{latent_dim}{others}-{self.batch_size}x{self.steps}-{seed}"
        return kept(
            self.runs / "+".join(self.probes) / f"{run}.csv",
            functools.partial(self._measure, objective, seed, tau, latent_dim, **more),
        )

    def _measure(
        self, objective: str, seed: int, tau: float, latent_dim: int, decay_share: float = DECAY_SHARE, **model: int
    ) -> pd.DataFrame:
        model = {**LAYERS, "latent_dim": latent_dim, **model}
        choices: dict[str, Any] = {"temperature": tau, "decay_share": decay_share, "model": model}
        if objective == "untrained":
            featurizer = self.train("cmim", seed, **{**choices, "learning_rate": 0.0, "steps": 1})
        else:
            featurizer = self.train(objective, seed, **choices)
        assert self.data is not None
        decoded = reconstruction(featurizer, self.data.valid, self.held_out)
        rows = []
        for name, probe in self.probes.items():
            both = featurizer.embed_encoded(probe.read(featurizer), "both")
            mean, informative = np.split(both, [latent_dim], axis=1)
            for embedding, X in zip(EMBEDDINGS, (mean, informative, both), strict=True):
                rows += [(embedding, name, split, probe.rmse(X, split)) for split in SPLITS]
        return pd.DataFrame(rows, columns=["embedding", "dataset", "split", "rmse"]).assign(
            exact_reconstruction=decoded.exact_reconstruction, token_accuracy=decoded.token_accuracy
        )


def compare(setup: Setup) -> dict[str, pd.DataFrame]:
    found = []
    for seed in range(setup.seeds):
        for objective in (*(("mim", "cmim") if setup.quick else OBJECTIVES), "untrained"):
            found.append(setup.scores(objective, seed).assign(objective=objective, seed=seed))
            print(f"{objective}, seed {seed}: done", flush=True)
    table = pd.concat(found, ignore_index=True)
    table = table[["objective", "seed", *table.columns.drop(["objective", "seed"])]]
    parts = dict(list(table.groupby(["dataset", "split"])))
    variance = [anova(part).assign(dataset=name, split=split) for (name, split), part in parts.items()]
    gains = [gain(part) | {"dataset": name, "split": split} for (name, split), part in parts.items()]
    return {"": table, "_anova": pd.concat(variance), "_gain": pd.DataFrame(gains)}


def anova(table: pd.DataFrame) -> pd.DataFrame:
    """Two-way analysis of variance of a balanced table: objective, embedding (mean, informative), both together."""
    two = table[(table["embedding"] != "both") & (table["objective"] != "untrained")]
    cells = two.pivot(index="objective", columns=["embedding", "seed"], values="rmse").sort_index(axis=1)
    y = cells.to_numpy().reshape(len(cells), 2, -1)  # objective, embedding, seed
    a, b, n = y.shape
    rows, columns, cell = y.mean((1, 2)) - y.mean(), y.mean((0, 2)) - y.mean(), y.mean(2)
    both = cell - y.mean() - rows[:, None] - columns
    squares = {
        "objective": (b * n * (rows**2).sum(), a - 1),
        "embedding": (a * n * (columns**2).sum(), b - 1),
        "objective x embedding": (n * (both**2).sum(), (a - 1) * (b - 1)),
        "seed (rest)": (((y - cell[..., None]) ** 2).sum(), a * b * (n - 1)),
    }
    rest, rest_df = squares["seed (rest)"]
    total = sum(s for s, _ in squares.values())
    found = []
    for source, (square, df) in squares.items():
        row = {"source": source, "sum_of_squares": square, "df": df, "share": square / total}
        if rest_df and source != "seed (rest)":
            row["F"] = (square / df) / (rest / rest_df)
            row["p"] = stats.f.sf(row["F"], df, rest_df)
        found.append(row)
    return pd.DataFrame(found)


def gain(table: pd.DataFrame) -> dict[str, float]:
    """RMSE of MIM's mean minus that of cMIM's informative embedding, split between objective and embedding.

    A cause's part is its effect with the other cause off and on, averaged; the two parts add up to the gain.
    """
    cell = table.groupby(["objective", "embedding"])["rmse"].mean()
    start, objective = cell["mim", "mean"], cell["cmim", "mean"]
    embedding, end = cell["mim", "informative"], cell["cmim", "informative"]
    return {
        "gain": start - end,
        "from_objective": ((start - objective) + (embedding - end)) / 2,
        "from_embedding": ((start - embedding) + (objective - end)) / 2,
    }


def ablate(setup: Setup) -> dict[str, pd.DataFrame]:
    plans: list[tuple[str, float]] = [*(("tau", tau) for tau in TAUS), *(("latent_dim", dim) for dim in LATENT_DIMS)]
    return varied(setup, plans[3:5] if setup.quick else plans, {})


def recipe(setup: Setup) -> dict[str, pd.DataFrame]:
    plans = [(setting, value) for setting, values in VARIED.items() for value in values]
    return varied(setup, plans[:2] if setup.quick else plans, RECIPE)


def varied(setup: Setup, plans: Sequence[tuple[str, float]], rest: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Scores of cMIM with one setting after the other at one value after the other, all else as `rest` says."""
    found = []
    for seed in range(setup.seeds):
        for setting, value in plans:
            scores = setup.scores("cmim", seed, **{**rest, setting: value})
            found.append(scores.assign(setting=setting, value=value, seed=seed))
            print(f"{setting} {value:g}, seed {seed}: done", flush=True)
    table = pd.concat(found, ignore_index=True)
    return {"": table[["setting", "value", "seed", *table.columns.drop(["setting", "value", "seed"])]]}


@torch.inference_mode()
def states(model: MolCMIMModel, encoded: Encoded, told: bool) -> dict[tuple[str, str], np.ndarray]:
    """Decoder states at predicted positions by layer and pooling; `told`: under teacher forcing, else as written."""
    layers = [*model.decoder.blocks, model.decoder.norm]
    names = [f"block {i + 1}" for i in range(len(layers) - 1)] + ["final norm"]
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name, layer in zip(names, layers, strict=True)
    ]
    pooled: dict[tuple[str, str], list[np.ndarray]] = {}
    for first in range(0, len(encoded.offsets) - 1, BATCH):
        rows = np.arange(first, min(first + BATCH, len(encoded.offsets) - 1))
        ids = torch.from_numpy(gather(encoded.ids, encoded.offsets, rows).ids)
        mu = model.encode(ids).mu
        said = ids if told else decode_ids(model, mu, max_length=ids.shape[1] + 8)
        model.decode_hidden(said, mu)
        predicted = said[:, 1:] != model.config.pad_token_id
        last = predicted.sum(1) - 1
        for name in names:
            hidden = seen[name][:, model.config.memory_tokens :]
            for pooling, value in (
                ("mean", (hidden * predicted[..., None]).sum(1) / predicted.sum(1, keepdim=True)),
                ("max", hidden.masked_fill(~predicted[..., None], -torch.inf).amax(1)),
                ("last", hidden[torch.arange(len(last)), last]),
            ):
                pooled.setdefault((name, pooling), []).append(value.numpy())
    for hook in hooks:
        hook.remove()
    return {key: np.concatenate(parts)[encoded.which] for key, parts in pooled.items()}


def anatomy(setup: Setup) -> dict[str, pd.DataFrame]:
    rows = []
    for seed in range(1 if setup.checkpoint else setup.seeds):
        featurizer = Featurizer.from_pretrained(setup.checkpoint) if setup.checkpoint else setup.train("cmim", seed)
        for name, probe in setup.probes.items():
            encoded = probe.read(featurizer)
            for told, decoder in ((True, "told the molecule"), (False, "writes itself")):
                for (layer, pooling), X in states(featurizer.model, encoded, told).items():
                    rows.append((layer, pooling, decoder, name, seed, probe.rmse(X, "random")))
        print(f"seed {seed}: done", flush=True)
    return {"": pd.DataFrame(rows, columns=["layer", "pooling", "decoder", "dataset", "seed", "rmse"])}


def draw(experiment: str, table: pd.DataFrame, path: Path) -> None:
    """RMSE, a panel for every set and split: each seed as a dot, their mean as a stroke."""
    groups = "decoder" if experiment == "anatomy" else "embedding"
    if experiment == "compare":
        table = table.assign(what=table["objective"])
    elif experiment in ("ablate", "recipe"):
        names = table["setting"].replace({"latent_dim": "latent", "num_latents": "K", "memory_tokens": "M"})
        table = table.assign(what=names + " " + table["value"].map("{:g}".format))
    else:
        table = table.assign(what=table["layer"] + ", " + table["pooling"], split="random")
    names, labels, kinds, splits = (list(table[column].unique()) for column in ("dataset", "what", groups, "split"))
    size = (4.4 * len(names) + 1.5, (0.42 * len(labels) + 1.4) * len(splits))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(splits), len(names), squeeze=False, sharey=True)
    for (row, split), (column, name) in itertools.product(enumerate(splits), enumerate(names)):
        panel = panels[row, column]
        shown = table[(table["dataset"] == name) & (table["split"] == split)]
        for i, kind in enumerate(kinds):
            rows = shown[shown[groups] == kind]
            shift = 0.8 * ((i + 0.5) / len(kinds) - 0.5)
            mean = rows.groupby("what")["rmse"].mean().reindex(labels)
            at = [labels.index(label) + shift for label in rows["what"]]
            panel.plot(rows["rmse"], at, "o", color=f"C{i}", markersize=3, alpha=0.5)
            panel.plot(mean, np.arange(len(labels)) + shift, "|", color=f"C{i}", markersize=11, mew=2.5, label=kind)
        panel.set_yticks(range(len(labels)), labels)
        panel.set_ylim(len(labels) - 0.5, -0.5)
        panel.set_title(f"{name}, {split}: test RMSE ({datasets.DATASETS[name].unit})", fontsize=9)
        panel.grid(axis="x", alpha=0.3)
        for between in range(1, len(labels)):
            panel.axhline(between - 0.5, color="0.85", linewidth=0.8)
    panels[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.supxlabel("dots: seeds; strokes: their mean", fontsize=8)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


EXPERIMENTS = {"compare": compare, "ablate": ablate, "recipe": recipe, "anatomy": anatomy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3, help="of pretraining")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--datasets", nargs="+", default=["esol", "freesolv", "lipophilicity"])
    parser.add_argument("--checkpoint", help="of anatomy; default: train cMIM")
    parser.add_argument("--output", type=Path, help="default: results beside this file")
    parser.add_argument("--store", type=Path, help="token store to train on; default: one of molecules.csv")
    parser.add_argument("--valid", type=Path, help="token store of held-out molecules")
    parser.add_argument("--data", type=Path, help="folder of the property sets; default: cache, download")
    parser.add_argument("--runs", type=Path, help="where pretraining runs are kept; default: nowhere")
    arguments = parser.parse_args()
    results = Path(__file__).with_name("results")
    output = arguments.output or (results / "quick" if arguments.quick else results)
    output.mkdir(parents=True, exist_ok=True)
    budget = {"seeds": arguments.seeds, "batch_size": arguments.batch_size, "steps": arguments.steps, "held_out": 512}
    names = arguments.datasets
    if arguments.quick:
        budget, names = {"seeds": 1, "batch_size": 16, "steps": 10, "held_out": 128}, ["freesolv"]
    with tempfile.TemporaryDirectory() as temporary:
        runs = arguments.runs or Path(temporary)
        probes = {name: Probe(name, arguments.data) for name in names}
        setup = Setup(
            None if arguments.checkpoint else stores(arguments.store, arguments.valid, runs), runs, probes, **budget,
            quick=arguments.quick, checkpoint=arguments.checkpoint,
        )  # fmt: skip
        tables = EXPERIMENTS[arguments.experiment](setup)
    name = f"informative_{arguments.experiment}"
    for suffix, table in tables.items():
        with atomic_path(output / f"{name}{suffix}.csv") as path:
            if not setup.checkpoint:
                table = table.assign(batch_size=setup.batch_size, steps=setup.steps)
            table.round(4).to_csv(path, index=False)
        print(table.round(4).to_string(index=False))
    draw(arguments.experiment, tables[""], output / f"{name}.png")


if __name__ == "__main__":
    main()
