"""One frame with several references: stars for all of them, places where any detects, stamps at all of these.

A place is what one or more of the references show, within one FWHM. Stars are known by their injection id,
all else by its position: all differences have the pixels of the science frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rbsim import schema, tables
from rbsim.asked import AskedStars, dimmed
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.detect import Detections
from rbsim.difference import Difference
from rbsim.frame import Frame
from rbsim.judge import MIN_RADIUS_PIX
from rbsim.known import known_row
from rbsim.lost import as_detections
from rbsim.match import match
from rbsim.observe import Observed, features_of, stamps_of
from rbsim.on_frame import flux_error_at, pixel_of, usable_pixels
from rbsim.significance import MatchedFilter


@dataclass(frozen=True, eq=False)
class Sites:
    """Places where something is detected with at least one of k references.

    Attributes
    ----------
    row : ndarray of int, shape (n, k)
        Detection of each reference, -1 without one.
    x_pix, y_pix : ndarray, shape (n, k)
        Its position; without one that of the first reference that has it.
    """

    row: np.ndarray
    x_pix: np.ndarray
    y_pix: np.ndarray

    @property
    def found_with(self) -> np.ndarray:
        """Bits of the references that detect it, shape (n,), uint8."""
        return bits(self.row >= 0)

    @property
    def anchor(self) -> np.ndarray:
        """Position with the first reference that detects it, shape (n, 2)."""
        at = np.arange(len(self.row)), np.argmax(self.row >= 0, axis=1)
        return np.column_stack([self.x_pix[at], self.y_pix[at]])

    def select(self, rows: np.ndarray) -> "Sites":
        """The places of an index array."""
        return Sites(self.row[rows], self.x_pix[rows], self.y_pix[rows])

    def with_more(self, others: "Sites") -> "Sites":
        """These places, then others."""
        return Sites(
            *(np.concatenate([getattr(some, name) for some in (self, others)]) for name in vars(self))
        )


def bits(found: np.ndarray) -> np.ndarray:
    """Column ``found_with`` from an array of bool, shape (n, k)."""
    return (found << np.arange(found.shape[1])).sum(axis=1).astype(np.uint8)


def find_sites(detections: Sequence[Detections], *, is_positive: bool, radius_pix: float) -> Sites:
    """Detections of one sign of all references, brought together one to one, nearest first.

    Parameters
    ----------
    detections : sequence of Detections
        Of each reference.
    is_positive : bool
        The sign.
    radius_pix : float
        Farther apart they are two places.

    Returns
    -------
    Sites
        Those of the first reference in the order of its detections, then what only later ones have.
    """
    row, anchor = np.empty((0, 0), int), np.empty((0, 2))
    for code, here in enumerate(detections):
        rows = np.flatnonzero(here.is_positive == is_positive)
        xy = tables.positions(here)[rows]
        same = match(
            anchor,
            xy,
            np.empty((0, 2)),
            truth_err_pix=np.zeros(len(anchor)),
            detected_err_pix=np.zeros(len(xy)),
            radius_sigma=1.0,
            min_radius_pix=radius_pix,
            max_radius_pix=radius_pix,
        ).detection
        alone = np.setdiff1d(np.arange(len(xy)), same)
        known = np.column_stack([row, np.append(rows, -1)[same]])
        new = np.column_stack([np.full((len(alone), code), -1), rows[alone]])
        row, anchor = np.concatenate([known, new]), np.concatenate([anchor, xy[alone]])
    at = np.repeat(anchor[:, None], len(detections), axis=1)
    for code, here in enumerate(detections):
        seen = row[:, code] >= 0
        at[seen, code] = tables.positions(here)[row[seen, code]]
    return Sites(row, at[..., 0], at[..., 1])


def site_radius(observed: Sequence[Observed]) -> float:
    """How far apart two differences may show the same thing, px: one FWHM of the widest PSF."""
    return max(MIN_RADIUS_PIX, *(one.frame.psf.fwhm_pix for one in observed))


def common_ground(observed: Sequence[Observed]) -> Subtracted:
    """The frame as observed and as the first reference shows it, without value where another one has none.

    Stars that are drawn from it lie where all references can show them.
    """
    first = observed[0].as_observed
    if len(observed) == 1:
        return first
    hidden = np.any([~usable_pixels(other.as_observed) for other in observed[1:]], axis=0)
    image = np.where(hidden, np.float32(np.nan), first.difference.image)
    return replace(first, difference=replace(first.difference, image=image))


def under_condition(observed: Sequence[Observed], drawn: AskedStars) -> tuple[AskedStars, ...]:
    """Stars drawn for the frame as observed, as its condition lets them through; no row is lost.

    They are flagged ON_MASK where the degraded frame has no value with one of the references.

    Returns
    -------
    tuple of AskedStars
        One for each reference: the same stars, each with the S/N that it has there.
    """
    first, asked = observed[0], drawn
    if first.degraded is not None:
        x, y = pixel_of(first.frame, drawn.x_pix, drawn.y_pix)
        asked = dimmed(
            drawn,
            first.degraded.transparency,
            flux_error_adu=flux_error_at(first.frame, drawn.x_pix, drawn.y_pix),
            is_lost=np.any([one.frame.difference.bad[y, x] for one in observed], axis=0),
        )
    return (asked, *(_with_snr(asked, one.frame) for one in observed[1:]))


def _with_snr(asked: AskedStars, frame: Subtracted) -> AskedStars:
    """The same stars with the S/N that they have in another difference; flagged rows keep theirs."""
    error = flux_error_at(frame, asked.x_pix, asked.y_pix)
    known = (asked.flag == 0) & np.isfinite(error) & (error > 0)
    return replace(asked, snr=np.divide(asked.net_flux_adu, error, out=asked.snr.copy(), where=known))


def pair_of_site(frame_index: int, number: np.ndarray) -> np.ndarray:
    """Values of the column ``pair`` of places without injection: unique in a store, all below -1."""
    return -2 - (frame_index * 1_000_000 + number)


def as_pairs(
    columns: tables.Columns,
    observed: Sequence[Observed],
    xy_pix: np.ndarray,
    rows: np.ndarray,
    pair: np.ndarray,
    found_with: np.ndarray,
) -> tables.Columns:
    """Columns of stamps that have partners; of a store with one reference they stay as they are.

    Parameters
    ----------
    columns : dict of str to ndarray, shape (n,)
    observed : sequence of Observed
    xy_pix : ndarray, shape (m, 2)
        Of all places of the realisation, the same for all references: so are tiles and groups, to the bit.
    rows : ndarray of int, shape (n,)
        Which of the places the stamps are of.
    pair, found_with : ndarray, shape (m,)
    """
    if len(observed) == 1:
        return columns
    place = tables.place_columns(observed[0].context, xy_pix[:, 0], xy_pix[:, 1])
    place |= {"pair": pair, "found_with": found_with}
    return columns | {name: values[rows] for name, values in place.items()}


def force(
    observed: Observed,
    shown: Subtracted,
    science: Frame,
    difference: Difference,
    filtered: MatchedFilter,
    xy_pix: np.ndarray,
    config: InjectConfig,
    *,
    realisation: int,
    injection_id: np.ndarray,
) -> tuple[np.ndarray, tables.Columns, np.ndarray]:
    """Stamps at places where only another reference detects something.

    Parameters
    ----------
    observed, shown : Observed, Subtracted
        The frame with this reference; `shown` has the stars that shine in it.
    science, difference, filtered : Frame, Difference, MatchedFilter
        With the stars of the realisation.
    xy_pix : ndarray, shape (n, 2)
    config : InjectConfig
    realisation : int
    injection_id : ndarray, shape (n,)

    Returns
    -------
    pixels, columns
        As of any stamps; kind forced, no label.
    kept : ndarray of int
        Which places have a stamp: not those without any pixel in the difference.
    """
    cut = stamps_of(shown, science, difference, as_detections(xy_pix[:, 0], xy_pix[:, 1], filtered))
    kept = np.flatnonzero(np.isfinite(cut.pixels[:, schema.CHANNELS.index("difference")]).any(axis=(1, 2)))
    places, cut = as_detections(xy_pix[kept, 0], xy_pix[kept, 1], filtered), cut.select(kept)
    n = len(kept)
    columns = tables.candidate_columns(
        observed.context,
        places,
        cut,
        features_of(shown, difference, filtered, places, config),
        kind=np.full(n, schema.KIND_CODES["forced"]),
        realisation=realisation,
        injection_id=injection_id[kept],
        host_offset_pix=np.full(n, np.nan),
        ambiguous=np.zeros(n, bool),
        nonlinear=np.zeros(n, bool),
        known_row=known_row(observed.known, places.x_pix, places.y_pix),
        cause=np.full(n, schema.NO_CAUSE),
        fit=shown.difference.fit,
    )
    return cut.pixels, columns, kept
