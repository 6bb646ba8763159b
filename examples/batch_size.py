"""How much does the batch size matter to what is learned? MIM, cMIM, cMIM-sum, InfoNCE, VAE and cVAE side by side.

    python examples/batch_size.py digits                                                # minutes
    python examples/batch_size.py molecules --store TRAIN --valid VALID [--data FOLDER]
    python examples/batch_size.py digits --quick                                        # seconds; likewise molecules

Digits: the 8x8 digits of scikit-learn, latent 64, tau 0.1, probes on held-out digits (k nearest neighbours, linear,
MLP; accuracy). Molecules: the tiny model made smaller still (width 32, a layer of encoder and one of decoder), on
token stores of `molcmim prepare --spellings`, latent 64, tau 0.1, ridge on ESOL (negative test RMSE, mean of five
random splits). Every run has the same number of steps, so a larger batch also sees more data: MIM and VAE, which
compare nothing with the rest of the batch, show what that alone does.

A score's z is taken over all runs of its seed and probe. Each seed gives one slope of z against log10 B per objective;
their mean, t interval and t test over seeds are the result. Writes batch_size_<data>.csv, batch_size_<data>_slopes.csv
and batch_size_<data>.png. What a run scored is kept in --runs as it ends and not done again.
"""

import argparse
import functools
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mlp import means, train
from scipy import stats
from short_runs import Probe, Stores, kept, stores, trained
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from molcmim.atomic import atomic_path
from molcmim.objectives import Settings

BATCH_SIZES = (2, 5, 10, 100, 200)
OBJECTIVES = ("mim", "cmim", "cmim-sum", "infonce", "vae", "cvae")
TAU = 0.1
UNTRAINED = "untrained"
"""A model of random weights, the floor: no objective, so that it has no batch size, no z and no slope."""
CHOICES = {
    "temperature": TAU,
    "learning_rate": 0.01,
    "model": {"width": 32, "latent_dim": 64, "encoder_layers": 1, "decoder_layers": 1, "stem_kernel": 0},
}
"""What differs from the tiny recipe, so that 150 runs take minutes."""
Scores = dict[str, float]


def shifted(x: torch.Tensor) -> torch.Tensor:
    """A view of a batch of digits: each moved by at most a pixel either way, with noise of 0.1 (of 1)."""
    images = torch.nn.functional.pad(x.view(-1, 8, 8), (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(x), 1, 1))
    rows, columns = torch.arange(8)[:, None] + down, torch.arange(8) + right
    moved = images[torch.arange(len(x))[:, None, None], rows, columns].flatten(1)
    return moved + 0.1 * torch.randn_like(moved)


def digits(objective: str, batch_size: int, seed: int, steps: int) -> Scores:
    x, y = load_digits(return_X_y=True)
    fit, test, y_fit, y_test = train_test_split(x / 16, y, test_size=0.3, random_state=seed, stratify=y)
    fit, test = (torch.tensor(part, dtype=torch.float32) for part in (fit, test))
    model, _ = train(
        fit, objective, Settings(TAU), latent_dim=64, hidden=128, batch_size=batch_size, steps=steps, seed=seed,
        view=shifted,
    )  # fmt: skip
    z_fit, z_test = means(model, fit).numpy(), means(model, test).numpy()
    probes = {
        "knn": KNeighborsClassifier(5),
        "linear": LogisticRegression(max_iter=100),
        "mlp": MLPClassifier((64,), max_iter=30, random_state=seed),
    }
    return {name: _accuracy(probe, z_fit, y_fit, z_test, y_test) for name, probe in probes.items()}


def _accuracy(probe, z_fit, y_fit, z_test, y_test) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe's budget is its budget, converged or not
        return make_pipeline(StandardScaler(), probe).fit(z_fit, y_fit).score(z_test, y_test)


def on_molecules(data: Stores, esol: Probe) -> Callable[[str, int, int, int], Scores]:
    def molecules(objective: str, batch_size: int, seed: int, steps: int) -> Scores:
        choices = {"objective": objective, "batch_size": batch_size, "steps": steps, "seed": seed, **CHOICES}
        if objective == UNTRAINED:
            choices |= {"objective": "mim", "batch_size": 2, "steps": 1, "learning_rate": 0.0}
        featurizer = trained(data, **choices)
        X = featurizer.embed_encoded(esol.read(featurizer), "mean")
        return {"ridge on ESOL": -esol.rmse(X, "random")}

    return molecules


def table(
    score: Callable[[str, int, int, int], Scores],
    objectives: Sequence[str],
    sizes: Sequence[int],
    seeds: int,
    steps: int,
    runs: Path,
    floor: bool,
) -> pd.DataFrame:
    """One row a run and probe: score, and z over all runs of the same seed and probe."""

    def rows(objective: str, size: int, seed: int) -> pd.DataFrame:
        found = [(objective, size, seed, steps, *one) for one in score(objective, size, seed, steps).items()]
        return pd.DataFrame(found, columns=["objective", "batch_size", "seed", "steps", "probe", "score"])

    found = []
    for seed in range(seeds):
        plan = [(objective, size) for size in sizes for objective in objectives]
        for objective, size in [*plan, (UNTRAINED, 0)] if floor else plan:
            path = runs / f"{objective}-{size}-{seed}-{steps}.csv"
            found.append(kept(path, functools.partial(rows, objective, size, seed)))
        print(f"seed {seed}: done", flush=True)
    frame = pd.concat(found, ignore_index=True)
    scores = frame["score"].where(frame["objective"] != UNTRAINED).groupby([frame["seed"], frame["probe"]])
    frame["z"] = ((frame["score"] - scores.transform("mean")) / scores.transform("std")).where(frame["batch_size"] > 0)
    return frame


def slopes(frame: pd.DataFrame) -> pd.DataFrame:
    """Slope of z against log10 B by objective and probe: mean over seeds, 95 % interval, p of being 0."""
    frame = frame[frame["objective"] != UNTRAINED]
    rows = []
    by_seed = {}
    every = (
        frame.groupby(["objective", "batch_size", "seed"], as_index=False, sort=False)["z"].mean().assign(probe="all")
    )
    for (probe, objective), runs in pd.concat([frame, every]).groupby(["probe", "objective"], sort=False):
        found = [stats.linregress(np.log10(one["batch_size"]), one["z"]).slope for _, one in runs.groupby("seed")]
        by_seed[probe, objective] = np.array(found)
        rows.append({"probe": probe, "objective": objective, **_interval(by_seed[probe, objective])})
    for probe in {probe: None for probe, _ in by_seed}:
        for one, other in (("infonce", "cmim"), ("cmim", "mim"), ("infonce", "mim")):
            difference = by_seed[probe, one] - by_seed[probe, other]
            rows.append({"probe": probe, "objective": f"{one} minus {other}", **_interval(difference)})
    return pd.DataFrame(rows)


def _interval(values: np.ndarray) -> dict[str, float]:
    if len(values) < 2:
        return {"slope": values.mean(), "seeds": len(values)}
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval()
    return {"slope": values.mean(), "seeds": len(values), "low": low, "high": high, "p": test.pvalue}


def draw(frame: pd.DataFrame, fitted: pd.DataFrame, path: Path) -> None:
    probes, objectives = list(frame["probe"].unique()), [name for name in OBJECTIVES if name in set(frame["objective"])]
    figure = Figure(figsize=(4.3 * (len(probes) + 1), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(probes) + 1)
    sizes = sorted(set(frame["batch_size"]) - {0})
    for panel, probe in zip(axes, probes, strict=False):
        for i, objective in enumerate(objectives):
            by_size = frame[(frame["probe"] == probe) & (frame["objective"] == objective)].groupby("batch_size")[
                "score"
            ]
            jitter = 1.06 ** (i - 2.5)
            panel.errorbar([b * jitter for b in sizes], by_size.mean(), by_size.std().fillna(0), label=objective,
                           color=f"C{i}", marker="o", markersize=4, capsize=2)  # fmt: skip
        floor = frame.loc[(frame["probe"] == probe) & (frame["objective"] == UNTRAINED), "score"]
        if len(floor):
            panel.axhline(floor.mean(), color="0.4", linestyle="--", label=UNTRAINED)
        panel.set(xscale="log", xlabel="batch size")
        panel.set_xticks(sizes, [str(b) for b in sizes])
        panel.minorticks_off()
        what = "-test RMSE" if "ESOL" in probe else "held-out accuracy"
        panel.set_title(f"{probe}: {what}, mean and sd of seeds", fontsize=10)
        panel.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=9)
    last = axes[-1]
    rows = fitted[(fitted["probe"] == "all") & fitted["objective"].isin(OBJECTIVES)].iloc[::-1]
    at = range(len(rows))
    if "low" in rows:
        last.errorbar(rows["slope"], at, xerr=[rows["slope"] - rows["low"], rows["high"] - rows["slope"]],
                      fmt="o", color="0.2", capsize=3)  # fmt: skip
    else:
        last.plot(rows["slope"], at, "o", color="0.2")
    last.set_yticks(at, rows["objective"])
    last.axvline(0, color="0.5", linewidth=1)
    last.set_title("slope of z against log10 B, 95 % interval", fontsize=10)
    last.grid(alpha=0.3)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("digits", "molecules"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--output", type=Path, help="default: results beside this file")
    parser.add_argument("--store", type=Path, help="token store to train on; default: one of molecules.csv")
    parser.add_argument("--valid", type=Path, help="token store of held-out molecules")
    parser.add_argument("--data", type=Path, help="folder of the property sets; default: cache, download")
    parser.add_argument("--runs", type=Path, help="where the score of each run is kept; default: nowhere")
    arguments = parser.parse_args()
    results = Path(__file__).with_name("results")
    output = arguments.output or (results / "quick" if arguments.quick else results)
    output.mkdir(parents=True, exist_ok=True)
    seeds, sizes, objectives, steps = arguments.seeds, arguments.batch_sizes, OBJECTIVES, arguments.steps
    if arguments.quick:
        seeds, sizes, objectives, steps = 1, (2, 10), ("mim", "cmim", "infonce"), 5
    with tempfile.TemporaryDirectory() as temporary:
        runs, score = arguments.runs or Path(temporary), digits
        if arguments.experiment == "molecules":  # whose untrained model is a floor worth knowing
            score = on_molecules(stores(arguments.store, arguments.valid, runs), Probe("esol", arguments.data))
        frame = table(score, objectives, sizes, seeds, steps, runs / arguments.experiment, score is not digits)
    fitted = slopes(frame)
    name = f"batch_size_{arguments.experiment}"
    for suffix, rows in (("", frame), ("_slopes", fitted)):
        with atomic_path(output / f"{name}{suffix}.csv") as path:
            rows.round(4).to_csv(path, index=False)
    draw(frame, fitted, output / f"{name}.png")
    print(fitted.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
