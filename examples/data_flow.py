"""Draw data_flow.png, the README's figure: what happens to a molecule here."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, PALE = "#22313f", "#5d6d7e"
BOXES = {  # name: (x, y, width, title, what it is, colour)
    "smiles": (0.0, 1.0, 1.55, "SMILES", "canonical string\nof any molecule", "#eef2f7"),
    "encoder": (2.15, 1.0, 1.75, "Perceiver encoder", "K latent vectors\nread the tokens", "#d6e6f5"),
    "posterior": (4.5, 1.0, 1.75, "posterior q(z|x)", "mean mu, variance\nz = mu + noise", "#dff0d8"),
    "decoder": (6.85, 1.0, 1.75, "causal decoder", "p(x|z), teacher-forced\nor generating", "#d6e6f5"),
    "back": (9.2, 1.0, 1.55, "SMILES", "reconstructed,\nor a new one", "#eef2f7"),
    "descriptors": (2.15, -0.65, 1.75, "descriptors", "embedding (n, p):\ntold from mu, linearly", "#fdebd0"),
    "mean": (4.5, -0.65, 1.75, "mean", "embedding (n, D)", "#fdebd0"),
    "informative": (6.85, -0.65, 1.75, "informative", "embedding (n, width):\naverage hidden state", "#fdebd0"),
    "contrast": (4.5, 2.6, 1.75, "contrastive factor", "p(k=1|x,z): z against\nthe batch's other codes", "#f6dfe3"),
}
ARROWS = [("smiles", "encoder"), ("encoder", "posterior"), ("posterior", "decoder"), ("decoder", "back"),
          ("posterior", "mean"), ("mean", "descriptors"), ("decoder", "informative"),
          ("posterior", "contrast")]  # fmt: skip
HEIGHT = 0.95


def draw(path: Path) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(-0.15, 10.9), ylim=(-0.85, 3.75))
    axes.set_axis_off()
    for x, y, width, title, what, colour in BOXES.values():
        box = FancyBboxPatch((x, y), width, HEIGHT, boxstyle="round,pad=0.06", facecolor=colour, edgecolor=INK)
        axes.add_patch(box)
        axes.text(x + width / 2, y + 0.74, title, ha="center", va="center", weight="bold", color=INK, fontsize=10.5)
        axes.text(x + width / 2, y + 0.3, what, ha="center", va="center", color=PALE, fontsize=8.5)
    for start, end in ARROWS:
        axes.add_patch(FancyArrowPatch(*_ends(start, end), arrowstyle="-|>", mutation_scale=14, color=INK))
    figure.savefig(path, dpi=110)


def _ends(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    x0, y0, width0, *_ = BOXES[start]
    x1, y1, width1, *_ = BOXES[end]
    if y0 == y1:
        from_, to = (x0 + width0 + 0.08, x1 - 0.08) if x0 < x1 else (x0 - 0.08, x1 + width1 + 0.08)
        return (from_, y0 + HEIGHT / 2), (to, y1 + HEIGHT / 2)
    down = y1 < y0
    return (
        (x0 + width0 / 2, y0 - 0.08 if down else y0 + HEIGHT + 0.08),
        (x1 + width1 / 2, y1 + HEIGHT + 0.08 if down else y1 - 0.08),
    )


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
