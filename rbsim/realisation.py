"""One realisation of a frame's stars: drawn once, then detected, matched and cut with every reference."""

from dataclasses import dataclass, replace

import numpy as np

from rbsim import schema, tables
from rbsim.asked import AskedStars, lights_of
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.detect import Detections, detect
from rbsim.errors import InputError
from rbsim.inject import Injected, inject, not_in_reference, psf_of_warped
from rbsim.inputs import FrameTask
from rbsim.judge import MIN_RADIUS_PIX, match_asked
from rbsim.known import known_row
from rbsim.lost import as_detections, choose_lost, lost_stars
from rbsim.match import Matches
from rbsim.observe import Observed, features_of, stamps_of
from rbsim.on_frame import pixel_of
from rbsim.paired import as_pairs, bits, force, under_condition
from rbsim.psf import Psf
from rbsim.seeding import stream
from rbsim.significance import MatchedFilter, filter_difference
from rbsim.sites import measure_sites
from rbsim.stamps import Stamps, choose_apart

NOT_LINEAR = schema.INJECTION_FLAG["SATURATED"] | schema.INJECTION_FLAG["NONLINEAR"]


@dataclass(frozen=True, eq=False)
class Realisation:
    """One realisation as one reference shows it.

    Attributes
    ----------
    observed : Observed
    shown : Subtracted
        The frame with the stars that shine in the reference.
    asked : AskedStars
    stars : Injected
    filtered : MatchedFilter
    found : Detections
    matches : Matches
    stamped : ndarray of int
        Stars with a stamp of their detection.
    first_id : int
        ``injection_id`` of the first star.
    realisation : int
    """

    observed: Observed
    shown: Subtracted
    asked: AskedStars
    stars: Injected
    filtered: MatchedFilter
    found: Detections
    matches: Matches
    stamped: np.ndarray
    first_id: int
    realisation: int

    @property
    def chosen(self) -> Detections:
        """What has a stamp as a star."""
        return self.found.select(self.matches.detection[self.stamped])


def inject_realisation(
    task: FrameTask,
    observed: tuple[Observed, ...],
    config: InjectConfig,
    as_drawn: AskedStars,
    reference_psfs: list[Psf | None],
    realisation: int,
) -> list[Realisation]:
    """Draw the stars of a realisation into the frame, once, and detect them with every reference."""
    first = observed[0].frame
    all_asked = under_condition(observed, as_drawn)
    lights = lights_of(all_asked[0])
    if (lights.reference_flux_adu != 0).any() and any(psf is None for psf in reference_psfs):
        lights = not_in_reference(lights)
    out: list[Realisation] = []
    for code, (one, asked) in enumerate(zip(observed, all_asked, strict=True)):
        frame = one.frame
        stars = inject(
            frame.science,
            first.psf,
            frame.difference,
            lights,
            reference=frame.reference,
            reference_psf=reference_psfs[code],
            stars=out[0].stars.stars if out else None,
            rng=stream(config.seed, "noise", task.key, realisation, *([code] if code else [])),
        )
        filtered = filter_difference(stars.difference)
        found = detect(
            filtered,
            stars.difference.bad,
            threshold_snr=config.threshold_snr,
            psf_at=frame.difference.psf_at,
            negatives=bool(asked.is_negative.any()),
        )
        matches = match_asked(frame, asked, stars.drawn, found, one.judged.detections, config)
        stamped = np.flatnonzero((matches.detection >= 0) & (config.negatives | ~asked.is_negative))
        shown = frame if stars.reference is None else replace(frame, reference=stars.reference)
        first_id = tables.injection_id(task.index, realisation, 0)
        out.append(
            Realisation(one, shown, asked, stars, filtered, found, matches, stamped, first_id, realisation)
        )
    return out


def star_stamps(
    rounds: list[Realisation], code: int, config: InjectConfig, *, key: int
) -> list[tuple[np.ndarray, tables.Columns]]:
    """Stamps of the stars of a realisation with one reference: found, lost, and found with another one."""
    seen = rounds[code]
    asked, chosen = seen.asked, seen.chosen
    observed = [one.observed for one in rounds]
    has_stamp = np.column_stack([np.isin(np.arange(len(asked)), one.stamped) for one in rounds])

    def paired(columns: tables.Columns, rows: np.ndarray) -> tables.Columns:
        xy = np.column_stack([asked.x_pix, asked.y_pix])
        ids = seen.first_id + np.arange(len(asked))
        return as_pairs(columns, observed, xy, rows, ids, bits(has_stamp))

    cut = stamps_of(seen.shown, seen.stars.science, seen.stars.difference, chosen)
    columns = _star_columns(seen, config, chosen, cut, seen.stamped, kind=asked.kind[seen.stamped])
    lost, lost_cut, lost_places = _lost(seen, config, key=key)
    lost_kind = np.full(len(lost), schema.KIND_CODES["injected_lost"])
    lost_columns = _star_columns(seen, config, lost_places, lost_cut, lost, kind=lost_kind)
    pieces = [
        (cut.pixels, paired(columns, seen.stamped)),
        (lost_cut.pixels, paired(lost_columns, lost)),
    ]
    elsewhere = np.setdiff1d(np.flatnonzero(has_stamp.any(axis=1)), [*seen.stamped, *lost])
    if len(elsewhere):
        found_at = np.full((len(asked), 2), np.nan)
        for one in reversed(rounds):
            found_at[one.stamped] = tables.positions(one.chosen)
        xy = found_at[elsewhere]
        apart = choose_apart(
            *xy.T,
            first=np.zeros(len(xy), bool),
            rng=stream(config.seed, "thin", key, 3, seen.realisation),
            taken=np.concatenate([tables.positions(chosen), tables.positions(lost_places)]),
        )
        rows = elsewhere[apart]
        pixels, forced, kept = force(
            seen.observed, seen.shown, seen.stars.science, seen.stars.difference, seen.filtered,
            xy[apart], config, realisation=seen.realisation, injection_id=seen.first_id + rows,
        )  # fmt: skip
        pieces.append((pixels, paired(forced, rows[kept])))
    return pieces


def star_truth(seen: Realisation, stamp: np.ndarray) -> tables.Columns:
    """Rows of the truth of a realisation; `stamp`: that of each star, -1 without one."""
    frame = seen.observed.frame
    return tables.truth_columns(
        seen.observed.context,
        seen.asked,
        seen.stars,
        seen.matches,
        seen.found,
        measure_sites(frame.science, frame.psf, frame.difference, frame.reference, seen.asked),
        realisation=seen.realisation,
        first_id=seen.first_id,
        stamp=stamp,
    )


def _lost(seen: Realisation, config: InjectConfig, *, key: int) -> tuple[np.ndarray, Stamps, Detections]:
    """Rows, stamps and places of stars that are not to be seen; none shares pixels with another of these."""
    asked, stars, shown, matches = seen.asked, seen.stars, seen.shown, seen.matches
    reach_pix = max(MIN_RADIUS_PIX, shown.psf.fwhm_pix)
    rows = lost_stars(asked, stars, matches, seen.found, seen.observed.judged.detections, reach_pix=reach_pix)
    places = as_detections(asked.x_pix[rows], asked.y_pix[rows], seen.filtered)
    cut = stamps_of(shown, stars.science, stars.difference, places)
    kept, flags = choose_lost(
        cut,
        places,
        matches.ambiguous[rows],
        (stars.flag[rows] & schema.INJECTION_FLAG["ON_MASK"]) != 0,
        _is_full(shown, places),
        seen.chosen,
        threshold_snr=config.threshold_snr,
        rng=stream(config.seed, "thin", key, 2, seen.realisation),
    )
    return rows[kept], replace(cut, flags=flags).select(kept), places.select(kept)


def _star_columns(
    seen: Realisation,
    config: InjectConfig,
    places: Detections,
    cut: Stamps,
    rows: np.ndarray,
    *,
    kind: np.ndarray,
) -> tables.Columns:
    """Columns of the stamps of some rows of the stars asked for, detected or not."""
    stars = seen.stars
    return tables.candidate_columns(
        seen.observed.context,
        places,
        cut,
        features_of(seen.shown, stars.difference, seen.filtered, places, config),
        kind=kind,
        realisation=seen.realisation,
        injection_id=seen.first_id + rows,
        host_offset_pix=seen.asked.host_offset_pix[rows],
        ambiguous=seen.matches.ambiguous[rows],
        nonlinear=(stars.flag[rows] & NOT_LINEAR) != 0,
        known_row=known_row(seen.observed.known, places.x_pix, places.y_pix),
        cause=np.full(len(rows), schema.NO_CAUSE),
        fit=seen.shown.difference.fit,
    )


def _is_full(frame: Subtracted, places: Detections) -> np.ndarray:
    """Whether the pixel of each place is saturated in science or reference, shape (n,), bool."""
    x, y = pixel_of(frame, places.x_pix, places.y_pix)
    saturated = schema.MASK["SATURATED"] | schema.MASK["SATURATED_REFERENCE"]
    return np.asarray((frame.difference.mask[y, x] & saturated) != 0)


def reference_psf(frame: Subtracted, asked_stars: list[AskedStars]) -> Psf | None:
    """PSF of the reference on the frame's pixels if a star shines in it; None if not, or if it has none."""
    if not any((asked.reference_flux_adu != 0).any() for asked in asked_stars):
        return None
    try:
        return psf_of_warped(frame.reference)
    except InputError:
        return None  # inject flags the stars
