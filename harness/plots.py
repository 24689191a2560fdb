"""The style of the documents' pictures: grey text and no background, legible on light and dark pages."""

from typing import Final

GREY: Final = "#7d8590"
OURS: Final = "#2da44e"
COLOURS: Final = {"greenscale": OURS, "bare loop": GREY}
OTHERS: Final = ("#4493f8", "#d29922", "#db61a2", "#a371f7", "#39c5cf", "#f0883e", "#f85149")
STYLE: Final = {
    "svg.hashsalt": "greenscale",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
