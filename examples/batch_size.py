"""How much does the batch size matter to what is learned? MIM, cMIM, cMIM-sum, InfoNCE, VAE and cVAE side by side.

    python examples/batch_size.py digits                                                # minutes
    python examples/batch_size.py molecules --store TRAIN --valid VALID [--data FOLDER]
    python examples/batch_size.py digits --quick                                        # seconds; likewise molecules

Digits: the 8x8 digits of scikit-learn, latent 64, tau 0.1, probes on held-out digits (k nearest neighbours, linear,
MLP; accuracy). Molecules: the tiny model on token stores of `molcmim prepare --spellings`, latent 32, tau 0.1, ridge on
ESOL (random splits; negative test RMSE). Every run has the same number of steps, so a larger batch also sees more data:
MIM and VAE, which compare nothing with the rest of the batch, show what that alone does.

A score's z is taken over all runs of its seed and probe. Each seed gives one slope of z against log10 B per objective;
their mean, t interval and t test over seeds are the result. Writes batch_size_<data>.csv, batch_size_<data>_slopes.csv
and batch_size_<data>.png. Runs are kept in --runs and not done again.
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
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from molcmim.files import atomic_path
from molcmim.objectives import Settings

BATCH_SIZES = (2, 5, 10, 100, 200)
OBJECTIVES = ("mim", "cmim", "cmim-sum", "infonce", "vae", "cvae")
TAU = 0.1
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


def molecules(
    objective: str, batch_size: int, seed: int, steps: int, arguments: argparse.Namespace, runs: Path
) -> Scores:
    from short_runs import stores, trained

    from molcmim import Featurizer, datasets
    from molcmim.downstream import fit_head

    checkpoint = trained(
        stores(arguments.store, arguments.valid, runs), runs / f"{objective}-{batch_size}-{seed}-{steps}",
        objective=objective, batch_size=batch_size, steps=steps, seed=seed, temperature=TAU,
    )  # fmt: skip
    data = datasets.load("esol", arguments.data)
    X = Featurizer.from_pretrained(checkpoint).featurize(data["smiles"])
    rmse = fit_head("ridge", X, data["y"].to_numpy(), datasets.split(data, "random", seed)).test_rmse
    return {"ridge on ESOL": -rmse}


def table(
    score: Callable[[str, int, int, int], Scores],
    objectives: Sequence[str],
    sizes: Sequence[int],
    seeds: int,
    steps: int,
) -> pd.DataFrame:
    """One row a run and probe: score, and z over all runs of the same seed and probe."""
    rows = []
    for seed in range(seeds):
        for size in sizes:
            for objective in objectives:
                for probe, value in score(objective, size, seed, steps).items():
                    rows.append((objective, size, seed, steps, probe, round(value, 4)))
            print(f"seed {seed}, batches of {size}: done", flush=True)
    frame = pd.DataFrame(rows, columns=["objective", "batch_size", "seed", "steps", "probe", "score"])
    scores = frame.groupby(["seed", "probe"])["score"]
    frame["z"] = (frame["score"] - scores.transform("mean")) / scores.transform("std")
    return frame


def slopes(frame: pd.DataFrame) -> pd.DataFrame:
    """Slope of z against log10 B by objective and probe: mean over seeds, 95 % interval, p of being 0."""
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
    probes = list(frame["probe"].unique())
    figure = Figure(figsize=(4.3 * (len(probes) + 1), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(probes) + 1)
    sizes = sorted(frame["batch_size"].unique())
    for panel, probe in zip(axes, probes, strict=False):
        for i, objective in enumerate(frame["objective"].unique()):
            runs = frame[(frame["probe"] == probe) & (frame["objective"] == objective)]
            by_size = runs.groupby("batch_size")["score"]
            jitter = 1.03 ** (i - 2.5)
            panel.errorbar([b * jitter for b in sizes], by_size.mean(), by_size.std().fillna(0), label=objective,
                           color=f"C{i}", marker="o", markersize=4, capsize=2)  # fmt: skip
        panel.set(xscale="log", xlabel="batch size")
        panel.set_xticks(sizes, [str(b) for b in sizes])
        panel.minorticks_off()
        what = "-test RMSE" if "ESOL" in probe else "held-out accuracy"
        panel.set_title(f"{probe}: {what}, mean and sd of seeds", fontsize=10)
        panel.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
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
    parser.add_argument("--steps", type=int, help="of each run; default: 300 on digits, 100 on molecules")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--output", type=Path, help="default: results beside this file")
    parser.add_argument("--store", type=Path, help="token store to train on; default: one of molecules.csv")
    parser.add_argument("--valid", type=Path, help="token store of held-out molecules")
    parser.add_argument("--data", type=Path, help="folder of the property sets; default: cache, download")
    parser.add_argument("--runs", type=Path, help="where pretraining runs are kept; default: nowhere")
    arguments = parser.parse_args()
    results = Path(__file__).with_name("results")
    output = arguments.output or (results / "quick" if arguments.quick else results)
    output.mkdir(parents=True, exist_ok=True)
    steps = arguments.steps or (300 if arguments.experiment == "digits" else 100)
    seeds, sizes, objectives = arguments.seeds, arguments.batch_sizes, OBJECTIVES
    if arguments.quick:
        seeds, sizes, objectives, steps = 1, (2, 10), ("mim", "cmim", "infonce"), 5
    with tempfile.TemporaryDirectory() as temporary:
        score = digits
        if arguments.experiment == "molecules":
            score = functools.partial(molecules, arguments=arguments, runs=arguments.runs or Path(temporary))
        frame = table(score, objectives, sizes, seeds, steps)
    fitted = slopes(frame)
    name = f"batch_size_{arguments.experiment}"
    for suffix, rows in (("", frame), ("_slopes", fitted)):
        with atomic_path(output / f"{name}{suffix}.csv") as path:
            rows.round(4).to_csv(path, index=False)
    draw(frame, fitted, output / f"{name}.png")
    print(fitted.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
