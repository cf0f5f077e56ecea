"""A picture of what the stamps look like: some reals and some bogus of a store, drawn at random."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from rbmodel.gallery import GREY_LEVELS, NO_PIXEL, stretch
from rbsim import schema
from rbsim.seeding import stream
from rbsim.store import Store

COLUMNS, ROWS_PER_LABEL = 7, 3
ZOOM = 2
GAP_PIX = 2
HALF_GAP_PIX = 14


def draw_triplets(store: Store, path: Path) -> str:
    """Save reals (above) and bogus (below), each as reference, science, difference; the PNG in base64 too.

    Stretched as in the gallery (`rbmodel.gallery.stretch`); pixels without data are black.

    Parameters
    ----------
    store : Store
    path : Path
        PNG to write.
    """
    label = store.column("label_true")
    label[store.column("kind") == schema.KIND_CODES["injected_lost"]] = schema.LABEL_EXCLUDED
    halves = []
    for wanted in (schema.LABEL_REAL, schema.LABEL_BOGUS):
        members = np.flatnonzero(label == wanted)
        n_shown = min(COLUMNS * ROWS_PER_LABEL, len(members))
        rows = np.sort(stream(0, "thin", wanted).choice(members, n_shown, replace=False))
        halves.append(_grid(stretch(store.read_stamps(rows))))
    gap = np.full((HALF_GAP_PIX, halves[0].shape[1]), 255, np.uint8)
    picture = np.vstack([halves[0], gap, halves[1]])
    buffer = io.BytesIO()
    Image.fromarray(picture.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)).save(
        buffer, format="PNG", optimize=True
    )
    path.write_bytes(buffer.getvalue())
    return base64.b64encode(buffer.getvalue()).decode()


def _grid(levels: np.ndarray) -> np.ndarray:
    """Triplets (n, channel, y, x) of grey levels on a white sheet of `ROWS_PER_LABEL` rows."""
    size = schema.STAMP_SIZE_PIX
    width = len(schema.CHANNELS) * (size + 1) + 2 * GAP_PIX
    sheet = np.full((ROWS_PER_LABEL * (size + 2 * GAP_PIX), COLUMNS * width), 255, np.uint8)
    grey = np.where(levels == NO_PIXEL, 0, levels.astype(int) * 255 // (GREY_LEVELS - 1)).astype(np.uint8)
    for number, triplet in enumerate(grey):
        y = number // COLUMNS * (size + 2 * GAP_PIX) + GAP_PIX
        for channel, picture in enumerate(triplet):
            x = number % COLUMNS * width + GAP_PIX + channel * (size + 1)
            sheet[y : y + size, x : x + size] = picture[::-1]  # row 0 of a FITS image is at the bottom
    return sheet
