"""Pictures of single stamps for the report: which ones, how stretched, one sprite sheet for all."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rbsim import schema
from rbsim.store import Store

GAP_PIX = 1
CELL_WIDTH_PIX = len(schema.CHANNELS) * (schema.STAMP_SIZE_PIX + GAP_PIX) + GAP_PIX
CELL_HEIGHT_PIX = schema.STAMP_SIZE_PIX + 2 * GAP_PIX
CELLS_PER_ROW = 24
# Fewer grey levels than 256 halve the PNG, and no eye sees the difference on a noisy stamp.
GREY_LEVELS = 48
NO_PIXEL, GAP = GREY_LEVELS, GREY_LEVELS + 1
NO_PIXEL_COLOUR = (176, 92, 44)
SOFTENING_SIGMA = 3.0


@dataclass(frozen=True)
class Pick:
    """A stamp to show: its row in the store, its score, and what is to be said about it."""

    row: int
    score: float
    verdict: str
    tone: str


@dataclass(frozen=True)
class Choice:
    """The picks of one gallery, of which sort they are, and how many stamps there were to pick from."""

    sort: str
    picks: tuple[Pick, ...]
    n_total: int
    of_test: bool
    """Rows are those of the store that was tested on."""


@dataclass(frozen=True)
class Card:
    """What is printed beside one picture; `x_percent`, `y_percent` place the sprite sheet behind it."""

    pick: Pick
    x_percent: float
    y_percent: float
    kind: str
    frame: str
    x_pix: float
    y_pix: float
    snr: float
    mag: float
    flags: str


@dataclass(frozen=True)
class Album:
    """All pictures of the page: one PNG as base64, its size in cells, and the cards of each gallery."""

    png_base64: str
    n_columns: int
    n_rows: int
    galleries: tuple[tuple[Card, ...], ...]


def misclassified(arrays: Mapping[str, np.ndarray], *, threshold: float, n_max: int) -> tuple[Choice, Choice]:
    """Pick false positives from the highest score down and false negatives from the lowest score up.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        ``test_row``, ``test_score``, ``test_label_true``, ``test_kind``, each of shape (n,).
    threshold : float
        score >= threshold is called real.
    n_max : int
        Picks of each sort at most.
    """
    score, true = arrays["test_score"], arrays["test_label_true"]
    assumed = [kind.code for kind in schema.KINDS if kind.label_true_source == "assumed"]
    doubt = np.where(np.isin(arrays["test_kind"], assumed), "assumed ", "")
    false_positive = np.flatnonzero((score >= threshold) & (true == schema.LABEL_BOGUS))
    false_negative = np.flatnonzero((score < threshold) & (true == schema.LABEL_REAL))

    def choice(sort: str, members: np.ndarray, order: np.ndarray, verdict: str) -> Choice:
        chosen = members[np.argsort(order, kind="stable")][:n_max]
        picks = (
            Pick(int(arrays["test_row"][i]), float(score[i]), f"{doubt[i]}{verdict}", "wrong") for i in chosen
        )
        return Choice(sort, tuple(picks), len(members), of_test=True)

    return (
        choice("false positives", false_positive, -score[false_positive], "bogus called real"),
        choice("false negatives", false_negative, score[false_negative], "real called bogus"),
    )


def suspicious(arrays: Mapping[str, np.ndarray], *, label_true_source: np.ndarray, n_max: int) -> Choice:
    """Pick the training stamps whose out-of-fold score contradicts the given label most.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        ``train_row``, ``train_oof_score``, ``train_label_given`` and, if known, ``train_label_true``,
        each of shape (n,).
    label_true_source : ndarray, shape (n_stamps,)
        Column of the store: where it says assumed, the truth is only assumed and the text says so.
    n_max : int
        Picks at most; only stamps on the wrong side of score 0 are picked.
    """
    given, score = arrays["train_label_given"], arrays["train_oof_score"]
    contradiction = np.where(given == schema.LABEL_REAL, -score, score)
    contradiction[(given == schema.LABEL_EXCLUDED) | ~np.isfinite(score)] = -np.inf
    n_total = int(np.sum(contradiction > 0))
    picks = []
    for i in np.argsort(-contradiction, kind="stable")[: min(n_max, n_total)]:
        row = int(arrays["train_row"][i])
        name = "real" if given[i] == schema.LABEL_REAL else "bogus"
        true = arrays["train_label_true"][i] if "train_label_true" in arrays else schema.LABEL_EXCLUDED
        if true == schema.LABEL_EXCLUDED:
            verdict, tone = f"given {name}; truth unknown", "neutral"
        elif true != given[i]:
            verdict, tone = f"given {name}: mislabel", "right"
        else:
            verdict, tone = f"given {name}: label is right", "wrong"
        if label_true_source[row] == schema.LABEL_SOURCES["assumed"] and tone != "neutral":
            verdict += " (assumed)"
            tone = tone if tone == "right" else "neutral"
        picks.append(Pick(row, float(score[i]), verdict, tone))
    return Choice("most suspicious labels", tuple(picks), n_total, of_test=False)


def stretch(stamps: np.ndarray) -> np.ndarray:
    """Grey levels of stamps, every channel stretched on its own.

    With m the median and s the robust standard deviation (1.4826 MAD) of the channel's finite
    pixels, reference and science run from m - 2 s (black) to the brighter of m + 6 s and the highest
    pixel (white), the difference from -d to d with d the larger of 6 s and its greatest deviation
    from 0, so that 0 is mid-grey; in between asinh(x / 3 s), linear in the noise and logarithmic in
    the stars (after Lupton et al. 2004, PASP 116, 133).

    Parameters
    ----------
    stamps : ndarray, shape (n, channel, y, x)
        NaN where there is no pixel.

    Returns
    -------
    ndarray, same shape, uint8
        0 to GREY_LEVELS - 1; NO_PIXEL where `stamps` is not finite.
    """
    levels = np.full(stamps.shape, NO_PIXEL, np.uint8)
    for index in np.ndindex(stamps.shape[:2]):
        finite = np.isfinite(stamps[index])
        values = stamps[index][finite].astype(np.float64)
        if not values.size:
            continue
        symmetric = schema.CHANNELS[index[1]] == "difference"
        centre = 0.0 if symmetric else float(np.median(values))
        sigma = 1.4826 * float(np.median(np.abs(values - np.median(values)))) or 1.0
        top = max(6 * sigma, float((np.abs(values) if symmetric else values - centre).max()))
        bottom = -top if symmetric else -2 * sigma
        low, high, curve = (np.arcsinh(v / (SOFTENING_SIGMA * sigma)) for v in (bottom, top, values - centre))
        grey = np.clip((curve - low) / (high - low), 0, 1)
        levels[index][finite] = np.round(grey * (GREY_LEVELS - 1)).astype(np.uint8)
    return levels


def album(store: Store, choices: Sequence[Choice], *, test_store: Store | None = None) -> Album:
    """Draw every chosen stamp once, and say where each card finds its picture.

    Parameters
    ----------
    store : Store
    choices : sequence of Choice
    test_store : Store, optional
        Where the stamps of tests are, if in another store.
    """
    split = test_store is not None
    sources = [store, test_store] if test_store is not None else [store]
    rows = [
        np.unique(
            [pick.row for one in choices if (split and one.of_test) == of_test for pick in one.picks]
        ).astype(np.int64)
        for of_test in range(len(sources))
    ]
    starts = np.cumsum([0, *map(len, rows)])
    levels = np.concatenate(
        [stretch(source.read_stamps(own)) for source, own in zip(sources, rows, strict=True)]
    )
    n_columns = max(min(CELLS_PER_ROW, len(levels)), 1)
    n_rows = max(-(-len(levels) // n_columns), 1)
    sheet = np.full((n_rows * CELL_HEIGHT_PIX, n_columns * CELL_WIDTH_PIX), GAP, np.uint8)
    for number, stamp in enumerate(levels):  # (channel, y, x)
        y = number // n_columns * CELL_HEIGHT_PIX + GAP_PIX
        for channel, picture in enumerate(stamp):
            x = number % n_columns * CELL_WIDTH_PIX + GAP_PIX + channel * (schema.STAMP_SIZE_PIX + GAP_PIX)
            # Row 0 of a FITS image is at the bottom.
            sheet[y : y + schema.STAMP_SIZE_PIX, x : x + schema.STAMP_SIZE_PIX] = picture[::-1]
    names = ("kind", "frame", "x_pix", "y_pix", "snr", "mag", "flags")
    columns = [{name: source.column(name) for name in names} for source in sources]
    kinds = {kind.code: kind.name for kind in schema.KINDS}
    frames = [source.frame_names for source in sources]

    def card(pick: Pick, of_test: int) -> Card:
        number = int(starts[of_test] + np.searchsorted(rows[of_test], pick.row))
        own = {name: column[pick.row] for name, column in columns[of_test].items()}
        return Card(
            pick=pick,
            x_percent=100 * (number % n_columns) / max(n_columns - 1, 1),
            y_percent=100 * (number // n_columns) / max(n_rows - 1, 1),
            kind=kinds[int(own["kind"])].replace("_", " "),
            frame=frames[of_test][int(own["frame"])],
            x_pix=float(own["x_pix"]),
            y_pix=float(own["y_pix"]),
            snr=float(own["snr"]),
            mag=float(own["mag"]),
            flags=", ".join(flag.name for flag in schema.CANDIDATE_FLAGS if int(own["flags"]) & flag.value),
        )

    cards = tuple(tuple(card(pick, int(split and one.of_test)) for pick in one.picks) for one in choices)
    return Album(_png_base64(sheet), n_columns, n_rows, cards)


def _png_base64(sheet: np.ndarray) -> str:
    image = Image.fromarray(sheet, mode="P")
    greys = [round(255 * level / (GREY_LEVELS - 1)) for level in range(GREY_LEVELS)]
    image.putpalette([value for grey in greys for value in (grey, grey, grey)] + [*NO_PIXEL_COLOUR, 0, 0, 0])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, transparency=GAP)
    return base64.b64encode(buffer.getvalue()).decode()
