"""The contrastive factor on 2-D points: does it spread the angles of 2-D latents, and what does it cost?

    python examples/toy_2d.py           # 5 seeds, minutes
    python examples/toy_2d.py --quick   # seconds, one seed, a look at the pictures

1,000 points of a Gaussian that is six times as long as wide, 2-D latents; MIM against cMIM over tau. Points of a round
Gaussian under MIM are the control: their angles are even to begin with. Writes toy_2d.csv (one row a run),
toy_2d_effect.csv (cMIM minus MIM of the same seed, mean and 95 % confidence interval) and toy_2d.png.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mlp import means, reconstruction_error, train
from scipy import stats

from molcmim.atomic import atomic_path
from molcmim.objectives import Settings, log_p_match

POINTS, LENGTH, WIDTH, TILT = 1000, 3.0, 0.5, np.pi / 6
TAUS = (0.03, 0.1, 0.3, 1.0, 3.0)
MEASURES = {
    "ks_angle": "distance of the angles from uniform (Kolmogorov-Smirnov)",
    "radius_mean": "mean radius",
    "radius_sd": "spread of the radius",
    "log_p_match": "log p(k=1) of all points at tau = 1",
    "reconstruction_rmse": "reconstruction error",
}


def points(seed: int, length: float = LENGTH, width: float = WIDTH) -> torch.Tensor:
    turn = np.array([[np.cos(TILT), -np.sin(TILT)], [np.sin(TILT), np.cos(TILT)]])
    x = np.random.default_rng(seed).normal(size=(POINTS, 2)) * [length, width] @ turn.T
    return torch.tensor(x, dtype=torch.float32)


def angles(x: torch.Tensor) -> np.ndarray:
    return torch.atan2(x[:, 1], x[:, 0]).numpy()


def ks_from_uniform(x: torch.Tensor) -> float:
    return float(stats.kstest(angles(x), stats.uniform(-np.pi, 2 * np.pi).cdf).statistic)


def run(inputs: str, objective: str, tau: float, seed: int, steps: int) -> tuple[dict[str, object], torch.Tensor]:
    x = points(seed) if inputs == "long" else points(seed, 1.0, 1.0)
    model, _ = train(x, objective, Settings(tau, "sum"), 2, hidden=64, batch_size=200, steps=steps, seed=seed)
    mu = means(model, x)
    radius = mu.norm(dim=1)
    return {
        "inputs": inputs,
        "objective": objective,
        "tau": tau if objective == "cmim" else np.nan,
        "seed": seed,
        "steps": steps,
        "ks_angle_of_inputs": ks_from_uniform(x),
        "ks_angle": ks_from_uniform(mu),
        "radius_mean": radius.mean().item(),
        "radius_sd": radius.std().item(),
        "log_p_match": log_p_match(mu, 1.0).mean().item(),
        "reconstruction_rmse": reconstruction_error(model, x),
    }, mu


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """cMIM minus MIM of the same seed: mean, 95 % interval and p of a paired t test."""
    base = table[(table["objective"] == "mim") & (table["inputs"] == "long")].set_index("seed")
    rows = []
    for tau, runs in table[table["objective"] == "cmim"].groupby("tau"):
        runs = runs.set_index("seed")
        for measure in MEASURES:
            difference = (runs[measure] - base[measure]).to_numpy(dtype=float)
            row = {"tau": tau, "measure": measure, "mim": base[measure].mean(), "cmim": runs[measure].mean(),
                   "difference": difference.mean(), "seeds": len(difference)}  # fmt: skip
            if len(difference) > 1:
                test = stats.ttest_1samp(difference, 0.0)
                row["low"], row["high"] = test.confidence_interval()
                row["p"] = test.pvalue
            rows.append(row)
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, latents: dict[str, torch.Tensor], path: Path) -> None:
    columns = 4
    rows = -(-(len(latents) + 2) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns).flat
    x = points(0)
    limit = 1.05 * max(mu.abs().max().item() for mu in latents.values())
    for title, mu in {"input, coloured by its angle": x, **latents}.items():
        panel = next(axes)
        panel.scatter(mu[:, 0], mu[:, 1], c=angles(x), cmap="hsv", vmin=-np.pi, vmax=np.pi, s=5, linewidths=0)
        span = 1.05 * x.abs().max().item() if mu is x else limit
        panel.set(xlim=(-span, span), ylim=(-span, span), aspect="equal")
        panel.set_title(f"{title}\nKS {ks_from_uniform(mu):.3f}", fontsize=10)
        panel.grid(alpha=0.3)
    panel = next(axes)
    long = table[table["inputs"] == "long"].fillna({"tau": np.inf})
    by_seed = long.pivot(index="tau", columns="seed", values="ks_angle")
    at = range(len(by_seed))
    panel.plot(at, by_seed, color="0.6", linewidth=1, marker=".")
    panel.plot(at, by_seed.mean(axis=1), color="C0", linewidth=2.5, marker="o", label="mean")
    panel.set_xticks(at, [f"{tau:g}" if np.isfinite(tau) else "MIM" for tau in by_seed.index])
    panel.set(ylim=(0, None), xlabel="tau of cMIM")
    panel.set_title(f"KS of the latents' angles\nby seed ({by_seed.shape[1]}; thin lines)", fontsize=10)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=9)
    for panel in axes:
        panel.set_visible(False)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="default: results beside this file")
    arguments = parser.parse_args()
    results = Path(__file__).with_name("results")
    output = arguments.output or (results / "quick" if arguments.quick else results)
    output.mkdir(parents=True, exist_ok=True)
    seeds, taus, steps = (1, (0.1, 1.0), 100) if arguments.quick else (arguments.seeds, TAUS, 1000)
    plan = [("long", "mim", 1.0), *(("long", "cmim", tau) for tau in taus), ("round", "mim", 1.0)]
    table, latents = [], {}
    for seed in range(seeds):
        for inputs, objective, tau in plan:
            row, mu = run(inputs, objective, tau, seed, steps)
            table.append(row)
            if seed == 0 and inputs == "long":
                latents["MIM" if objective == "mim" else f"cMIM, tau {tau:g}"] = mu
    table = pd.DataFrame(table)
    effect = effects(table)
    for name, frame in (("toy_2d.csv", table), ("toy_2d_effect.csv", effect)):
        with atomic_path(output / name) as path:
            frame.round(4).to_csv(path, index=False)
    draw(table, latents, output / "toy_2d.png")
    print(table.groupby(["inputs", "objective", "tau"], dropna=False)[list(MEASURES)].mean().round(3).to_string())
    print(effect.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
