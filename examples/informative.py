"""What is an informative embedding worth, and where does its worth come from? Three property sets, frozen, ridge.

    python examples/informative.py compare --store TRAIN --valid VALID [--data FOLDER]
    python examples/informative.py ablate  --store TRAIN --valid VALID [--data FOLDER]
    python examples/informative.py anatomy --store TRAIN --valid VALID [--data FOLDER]
    python examples/informative.py compare --quick                                      # likewise the others

compare  MIM, cMIM, cMIM-sum, AE, VAE, cVAE and InfoNCE-X at one budget: mean, informative and both, with exact
         reconstruction, and a model of random weights (untrained) as the floor; a two-way analysis of variance of the
         RMSE (objective, embedding; replicates: seeds of pretraining), and the gain from MIM's mean to cMIM's
         informative embedding, split between the two causes.
ablate   cMIM over tau and over latent_dim.
anatomy  The informative embedding of cMIM, or of any --checkpoint, by decoder layer, by pooling, and read while the
         decoder is told the molecule (teacher forcing) or writes what it believes it to be.

Training is with the tiny model on token stores of `molcmim prepare --spellings`. An RMSE is the mean over five random
splits. Writes informative_<experiment>*.csv and .png. Runs are kept in --runs and not done again.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from short_runs import Stores, stores, trained

from molcmim import Featurizer, datasets
from molcmim.data import gather
from molcmim.decoding import decode_ids
from molcmim.downstream import fit_head
from molcmim.files import atomic_path
from molcmim.model import MolCMIMModel
from molcmim.reading import Encoded

OBJECTIVES = ("mim", "cmim", "cmim-sum", "ae", "vae", "cvae", "infonce-x")
EMBEDDINGS = ("mean", "informative", "both")
TAUS = (0.1, 0.3, 1.0, 3.0)
LATENT_DIMS = (64, 128, 256, 512)
BATCH = 128


class Setup(NamedTuple):
    data: Stores | None
    runs: Path
    sets: dict[str, pd.DataFrame]
    splits: int
    seeds: int
    batch_size: int
    steps: int
    quick: bool
    checkpoint: str | None
    encoded: dict[str, Encoded]

    def run(self, objective: str, seed: int = 0, **choices: object) -> Path:
        named = "-".join([objective, *(f"{name}={value}" for name, value in choices.items()), str(seed)])
        return trained(
            self.data, self.runs / f"{named}-{self.batch_size}x{self.steps}",
            **{"objective": objective, "seed": seed, "batch_size": self.batch_size, "steps": self.steps, **choices},
        )  # fmt: skip

    def read(self, featurizer: Featurizer, name: str) -> Encoded:
        """A set's molecules as tokens, the same for all these checkpoints."""
        if name not in self.encoded:
            self.encoded[name] = featurizer.reader().read(self.sets[name]["smiles"])
        return self.encoded[name]

    def rmse(self, name: str, X: np.ndarray) -> float:
        """Test RMSE of ridge on a set, the mean over random splits."""
        data = self.sets[name]
        parts = (datasets.split(data, "random", seed) for seed in range(self.splits))
        found = [fit_head("ridge", X, data["y"].to_numpy(), part).test_rmse for part in parts]
        return round(float(np.mean(found)), 4)

    def score(self, checkpoint: Path) -> Iterator[tuple[str, str, float, float]]:
        """Embedding, set, RMSE and exact reconstruction (held-out molecules, greedy, by the run's last evaluation)."""
        featurizer = Featurizer.from_pretrained(checkpoint)
        exact = pd.read_csv(checkpoint.parent / "log.csv")["eval_exact_reconstruction"].dropna().iloc[-1]
        for name in self.sets:
            both = featurizer.embed_encoded(self.read(featurizer, name), "both")
            mean, informative = np.split(both, [featurizer.dim("mean")], axis=1)
            for embedding, X in zip(EMBEDDINGS, (mean, informative, both), strict=True):
                yield embedding, name, self.rmse(name, X), exact


def compare(setup: Setup) -> dict[str, pd.DataFrame]:
    rows = []
    for seed in range(setup.seeds):
        for objective in ("mim", "cmim") if setup.quick else OBJECTIVES:
            rows += [(objective, seed, *score) for score in setup.score(setup.run(objective, seed))]
            print(f"{objective}, seed {seed}: done", flush=True)
        untrained = setup.run("cmim", seed, learning_rate=0.0, steps=1)
        rows += [("untrained", seed, *score) for score in setup.score(untrained)]
    table = pd.DataFrame(rows, columns=["objective", "seed", "embedding", "dataset", "rmse", "exact_reconstruction"])
    variance = [anova(part).assign(dataset=name) for name, part in table.groupby("dataset")]
    gains = pd.DataFrame([gain(part) | {"dataset": name} for name, part in table.groupby("dataset")])
    return {"": table, "_anova": pd.concat(variance), "_gain": gains}


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
    rows = []
    plans = [("temperature", tau) for tau in TAUS] + [("model.latent_dim", dim) for dim in LATENT_DIMS]
    plans = plans[3:5] if setup.quick else plans
    for setting, value in plans:
        for seed in range(setup.seeds):
            checkpoint = setup.run("cmim", seed, **{setting: value})
            rows += [(setting.removeprefix("model."), value, seed, *score) for score in setup.score(checkpoint)]
        print(f"{setting} {value}: done", flush=True)
    columns = ["setting", "value", "seed", "embedding", "dataset", "rmse", "exact_reconstruction"]
    return {"": pd.DataFrame(rows, columns=columns)}


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
        featurizer = Featurizer.from_pretrained(setup.checkpoint or setup.run("cmim", seed))
        for name in setup.sets:
            encoded = setup.read(featurizer, name)
            for told, decoder in ((True, "told the molecule"), (False, "writes itself")):
                for (layer, pooling), X in states(featurizer.model, encoded, told).items():
                    rows.append((layer, pooling, decoder, name, seed, setup.rmse(name, X)))
        print(f"seed {seed}: done", flush=True)
    return {"": pd.DataFrame(rows, columns=["layer", "pooling", "decoder", "dataset", "seed", "rmse"])}


def draw(experiment: str, table: pd.DataFrame, path: Path) -> None:
    """Bars of the RMSE, a panel for every set: mean over seeds, and each seed as a dot."""
    if experiment == "compare":
        bars, groups = "objective", "embedding"
    elif experiment == "ablate":
        table = table.assign(what=table["setting"] + " " + table["value"].map("{:g}".format))
        bars, groups = "what", "embedding"
    else:
        table = table.assign(what=table["layer"] + ", " + table["pooling"])
        bars, groups = "what", "decoder"
    names, labels, kinds = (list(table[column].unique()) for column in ("dataset", bars, groups))
    figure = Figure(figsize=(4.4 * len(names) + 1.5, 0.5 * len(labels) + 1.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for panel, name in zip(panels, names, strict=True):
        for i, kind in enumerate(kinds):
            rows = table[(table["dataset"] == name) & (table[groups] == kind)]
            shift = 0.8 * ((i + 0.5) / len(kinds) - 0.5)
            mean = rows.groupby(bars)["rmse"].mean().reindex(labels)
            panel.barh(np.arange(len(labels)) + shift, mean, 0.8 / len(kinds), label=kind, color=f"C{i}")
            panel.plot(rows["rmse"], [labels.index(label) + shift for label in rows[bars]], ".k", markersize=3)
        panel.set_yticks(range(len(labels)), labels)
        panel.set_ylim(len(labels) - 0.5, -0.5)
        low, high = table.loc[table["dataset"] == name, "rmse"].agg(["min", "max"])
        panel.set_xlim(low - 0.15 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
        unit = datasets.DATASETS[name].unit
        panel.set_title(f"{name}: test RMSE ({unit});\nthe axis does not start at 0", fontsize=9)
        panel.grid(axis="x", alpha=0.3)
    panels[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


EXPERIMENTS = {"compare": compare, "ablate": ablate, "anatomy": anatomy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=5, help="of pretraining")
    parser.add_argument("--steps", type=int, default=1000)
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
    budget = {"seeds": arguments.seeds, "splits": 5, "batch_size": arguments.batch_size, "steps": arguments.steps}
    names = arguments.datasets
    if arguments.quick:
        budget, names = {"seeds": 1, "splits": 1, "batch_size": 16, "steps": 10}, ["freesolv"]
    with tempfile.TemporaryDirectory() as temporary:
        runs = arguments.runs or Path(temporary)
        sets = {name: datasets.load(name, arguments.data) for name in names}
        setup = Setup(
            None if arguments.checkpoint else stores(arguments.store, arguments.valid, runs), runs, sets, **budget,
            quick=arguments.quick, checkpoint=arguments.checkpoint, encoded={},
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
