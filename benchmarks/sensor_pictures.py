"""Pictures of one emulated sensor for `night_pictures.py`: whole, and a part of it with its detections."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from rbsim.chain import Subtracted

NO_CLASS = "unexplained"
"""Of a detection that nothing explains."""
DPI = 100
SENSOR_PIX, BLOCK_PIX = (400, 225), 5
"""Width and height of a panel with a whole sensor, in blocks of so many px squared."""
PANEL_PIX = (600, 338)
"""The same of a part of it, pixel by pixel; its difference is twice as large."""
GAP_PIX, TITLE_PIX = 10, 22
STRETCH_SIGMA, TOP_SIGMA = 2.0, 300.0
"""Of the asinh: where it turns from linear to logarithmic, and what is white."""
LOW_SIGMA = -1.0
"""What is black."""
DIFFERENCE_SIGMA, QUIET_SIGMA = 12.0, 2.0
"""Of the colours of a difference; within the second it is white, or noise would be most of the picture."""
STEP_PIX = 40
MOST_MARKS = 25
NEIGHBOUR_PIX = 30.0
LETTER_PIX = (3.7, 7.0)
"""Width and height of a letter of a name in the zoom, px of the sensor."""
REAL_COLOUR, BOGUS_COLOUR, FRAME_COLOUR = "#007a33", "#000000", "#e69f00"
N_GREYS, N_HUES, N_COLOURS = 20, 12, 96


@dataclass(frozen=True)
class Mark:
    """A detection with what it is."""

    x_pix: float
    y_pix: float
    snr: float
    name: str
    is_real: bool


@dataclass(frozen=True, eq=False)
class Example:
    """A frame and the part of it to be shown: its lower left pixel, and the detections in it."""

    name: str
    frame: Subtracted
    corner: tuple[int, int]
    marks: list[Mark]


def inside(marks: list[Mark], corner: tuple[int, int], margin_pix: float = 14.0) -> list[Mark]:
    """Those in the part of the frame, not too near to its border."""
    width, height = (size - margin_pix for size in PANEL_PIX)
    return [
        mark
        for mark in marks
        if margin_pix < mark.x_pix - corner[0] < width and margin_pix < mark.y_pix - corner[1] < height
    ]


def best_part(marks: list[Mark], shape: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """The lower left pixel of the part with most kinds of detections, real ones among them; its score."""
    best, score = (0, 0), -1.0
    for y in range(0, max(shape[0] - PANEL_PIX[1], 0) + 1, STEP_PIX):
        for x in range(0, max(shape[1] - PANEL_PIX[0], 0) + 1, STEP_PIX):
            here = inside(marks, (x, y))
            kinds = {mark.name for mark in here} - {NO_CLASS}
            n_reals = len({mark.name for mark in here if mark.is_real})
            # Beyond some, marks hide each other.
            value = len(kinds) + 0.5 * min(n_reals, 2) - max(len(here) - MOST_MARKS, 0) - 0.01 * len(here)
            if value > score:
                best, score = (x, y), value
    return best, score


def draw_sensor(example: Example, path: Path) -> None:
    """Stack, PS1 and difference of a whole sensor, side by side."""
    frame = example.frame
    titles = (f"stack {example.name.removesuffix('.fits')}", "PS1, registered", "difference")
    figure, axes = panels([SENSOR_PIX] * 3, titles)
    reference = frame.reference.image * frame.difference.flux_scale
    for axis, image in zip(axes[:2], (frame.science.image, reference), strict=True):
        show_sky(axis, blocks(image), noise_of(frame) / BLOCK_PIX)
    whitened = blocks(frame.difference.image / np.sqrt(frame.difference.variance)) * BLOCK_PIX
    show_difference(axes[2], whitened)
    for axis, colour in zip(axes, (FRAME_COLOUR, FRAME_COLOUR, BOGUS_COLOUR), strict=True):
        corner = [(value - BLOCK_PIX / 2) / BLOCK_PIX for value in example.corner]
        size = [value / BLOCK_PIX for value in PANEL_PIX]
        axis.add_patch(Rectangle((corner[0], corner[1]), size[0], size[1], fill=False, ec=colour, lw=1))
    save(figure, path)


def draw_zoom(example: Example, path: Path) -> None:
    """A part of a sensor: stack and PS1, and twice as large the difference with its detections."""
    frame, (x, y) = example.frame, example.corner
    ny, nx = frame.science.shape
    box = slice(y, min(y + PANEL_PIX[1], ny)), slice(x, min(x + PANEL_PIX[0], nx))
    width, height = PANEL_PIX
    right, upper = width + GAP_PIX, 2 * height + TITLE_PIX + GAP_PIX
    figure = Figure(
        figsize=((2 * width + GAP_PIX) / DPI, (upper + height + TITLE_PIX) / DPI),
        dpi=DPI,
    )
    title = "difference: detections with their S/N (green: transients; dashed: negative; grey: no value)"
    places = (
        (0, upper, width, height, "stack"),
        (right, upper, width, height, "PS1, registered"),
        (GAP_PIX // 2, 0, 2 * width, 2 * height, title),
    )
    axes = [place(figure, *where) for where in places]
    noise = noise_of(frame)
    show_sky(axes[0], frame.science.image[box], noise)
    show_sky(axes[1], frame.reference.image[box] * frame.difference.flux_scale, noise)
    show_difference(axes[2], frame.difference.image[box] / np.sqrt(frame.difference.variance[box]))
    label(axes[2], example)
    save(figure, path)


def label(axis: Axes, example: Example) -> None:
    """Circles round the detections, and their names where there is room, one for neighbours of a kind."""
    at = {mark: (mark.x_pix - example.corner[0], mark.y_pix - example.corner[1]) for mark in example.marks}
    taken = [(x, y, 7.0, 7.0) for x, y in at.values()]
    named: list[Mark] = []
    for mark in sorted(example.marks, key=lambda mark: -abs(mark.snr)):
        x, y = at[mark]
        colour = REAL_COLOUR if mark.is_real else BOGUS_COLOUR
        style = "-" if mark.snr > 0 else (0, (3, 2))
        axis.add_patch(Circle((x, y), 7, fill=False, ec=colour, lw=1.2, ls=style))
        if any(
            other.name == mark.name
            and other.snr * mark.snr > 0
            and np.hypot(other.x_pix - mark.x_pix, other.y_pix - mark.y_pix) < NEIGHBOUR_PIX
            for other in named
        ):
            continue
        text = f"{mark.name} {mark.snr:.0f}".replace("-", "\N{MINUS SIGN}")
        half = LETTER_PIX[0] * len(text) / 2, LETTER_PIX[1] / 2
        beside, above = 9 + half[0], 8 + half[1]
        ways = [(beside, 0), (-beside, 0), (0, above), (0, -above)]
        ways += [(sx * half[0], sy * above) for sx in (1, -1) for sy in (1, -1)]
        ways += [(0, 2 * above), (0, -2 * above), (beside, above), (-beside, above), (beside, -above)]
        for dx, dy in ways:
            here = (x + dx, y + dy, *half)
            if is_free(here, taken):
                taken.append(here)
                named.append(mark)
                axis.text(x + dx, y + dy, text, color=colour, size=9.5, ha="center", va="center")
                break


def is_free(here: tuple[float, ...], taken: list[tuple[float, ...]]) -> bool:
    """Whether a box (middle and half sizes) is on the picture and touches no other."""
    x, y, half_x, half_y = here
    if not (half_x < x < PANEL_PIX[0] - half_x and half_y < y < PANEL_PIX[1] - half_y):
        return False
    return all(abs(x - u) > half_x + half_u or abs(y - v) > half_y + half_v for u, v, half_u, half_v in taken)


def panels(sizes: list[tuple[int, int]], titles: tuple[str, ...]) -> tuple[Figure, list[Axes]]:
    """Panels in a row, each image pixel one pixel of the picture."""
    width = sum(size[0] for size in sizes) + GAP_PIX * (len(sizes) - 1)
    height = sizes[0][1] + TITLE_PIX
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    left = 0
    axes = []
    for size, title in zip(sizes, titles, strict=True):
        axes.append(place(figure, left, 0, *size, title))
        left += size[0] + GAP_PIX
    return figure, axes


def place(figure: Figure, left: int, bottom: int, width: int, height: int, title: str) -> Axes:
    """Axes at pixels of the figure."""
    all_width, all_height = figure.get_size_inches() * DPI
    axis = figure.add_axes(
        (left / all_width, bottom / all_height, width / all_width, height / all_height),
        xticks=[],
        yticks=[],
        facecolor="0.75",
    )
    axis.set_title(title, size=9, loc="left", pad=4)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return axis


def show_sky(axis: Axes, image: np.ndarray, noise: float) -> None:
    """In asinh; what has no value is grey."""
    grey = np.ma.masked_invalid(np.arcsinh(image / (STRETCH_SIGMA * noise)))
    axis.imshow(
        grey,
        origin="lower",
        cmap=colormaps["gray"].resampled(N_GREYS),
        vmin=np.arcsinh(LOW_SIGMA / STRETCH_SIGMA),
        vmax=np.arcsinh(TOP_SIGMA / STRETCH_SIGMA),
        interpolation="nearest",
        aspect="auto",
    )


def show_difference(axis: Axes, whitened: np.ndarray) -> None:
    """Red and blue beyond the noise; what has no value is grey."""
    hues = colormaps["RdBu_r"](np.linspace(0, 1, 2 * N_HUES))
    quiet = round(N_HUES * QUIET_SIGMA / DIFFERENCE_SIGMA)
    hues[N_HUES - quiet : N_HUES + quiet] = 1.0
    axis.imshow(
        np.ma.masked_invalid(whitened),
        origin="lower",
        cmap=ListedColormap(hues),
        vmin=-DIFFERENCE_SIGMA,
        vmax=DIFFERENCE_SIGMA,
        interpolation="nearest",
        aspect="auto",
    )


def blocks(image: np.ndarray) -> np.ndarray:
    """Means over blocks of px squared, of those with a value."""
    ny, nx = (size // BLOCK_PIX for size in image.shape)
    parts = image[: ny * BLOCK_PIX, : nx * BLOCK_PIX].reshape(ny, BLOCK_PIX, nx, BLOCK_PIX)
    known = np.isfinite(parts)
    total = np.where(known, parts, 0).sum(axis=(1, 3))
    n = known.sum(axis=(1, 3))
    return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)


def noise_of(frame: Subtracted) -> float:
    """Of a pixel of the stack, ADU."""
    return float(np.sqrt(np.median(frame.science.variance[~frame.science.bad])))


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    shrink(path)


def shrink(path: Path) -> None:
    """To a palette: noise in 24 bits is many times larger."""
    Image.open(path).convert("RGB").quantize(N_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
