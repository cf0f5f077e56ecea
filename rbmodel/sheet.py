"""The sheet that a figure is put on: inline SVG in the page's colours, PNG, and its numbers as CSV."""

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

# Light and dark value of every colour of the page. Series colours differ in lightness too: simulated
# protanopia, deuteranopia and tritanopia (Machado et al. 2009) leave each pair at least 14 CIELAB
# units apart. Each light value occurs once: the SVG is searched for it.
COLOURS = {
    "paper": ("#fdfcfa", "#14171b"),
    "ink": ("#1c2126", "#e9e7e2"),
    "muted": ("#666e78", "#9aa3ad"),
    "rule": ("#dcdad5", "#30363d"),
    "real": ("#009e73", "#2fc79b"),
    "bogus": ("#8d949c", "#7d858f"),
    "second": ("#6b4fa0", "#b39ae6"),
    "wrong": ("#b3245f", "#ff6f9f"),
    "bound": ("#3d444c", "#c6ccd3"),
    "series0": ("#943608", "#cf6f24"),
    "series1": ("#b98608", "#fadb85"),
    "series2": ("#0c67d0", "#3d9df5"),
    "series3": ("#63914c", "#62bd58"),
    "series4": ("#833187", "#b852c4"),
    "series5": ("#1f9ca2", "#4fdcf5"),
    "series6": ("#47301f", "#93693d"),
}

RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rbsim",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 8,
    **dict.fromkeys(("axes.labelcolor", "axes.titlecolor", "text.color"), COLOURS["ink"][0]),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), COLOURS["muted"][0]),
}


@dataclass(frozen=True)
class Block:
    """A figure of the page: SVG texts that share a caption (by name, in the template) and a CSV file."""

    name: str
    id: str
    title: str
    svgs: tuple[str, ...]
    csv: str


@dataclass(frozen=True)
class Sheet:
    """Where the files of figures go: a directory and a prefix of their names."""

    directory: Path
    prefix: str

    def write(
        self, name: str, title: str, drawings: Sequence[tuple[str, Figure]], table: Sequence[Sequence[Any]]
    ) -> Block:
        """Write PNG and CSV of one figure; `table` starts with the column names."""
        stem = self.prefix + name
        svgs = []
        for number, (description, figure) in enumerate(drawings, 1):
            part = stem if len(drawings) == 1 else f"{stem}-{number}"
            figure.savefig(self.directory / f"{part}.png", dpi=200, facecolor="white")
            figure.set_layout_engine("none")
            svgs.append(_svg(figure, part, description))
        with (self.directory / f"{stem}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(table)
        return Block(name, stem, title, tuple(svgs), f"{self.directory.name}/{stem}.csv")


def _svg(figure: Figure, stem: str, description: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Several drawings share one page: their ids must differ, and nothing refers to the ids of groups.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(id="|#)([mp][0-9a-f]{10})\b', rf"\g<1>{stem}-\2", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    text = re.sub(r"([\d.]+)px", r"calc(\1px * var(--figure-text))", text)
    for role, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{role})")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
