"""One frame end to end: read, register, subtract, detect, inject, match, cut. Read it top to bottom."""

from dataclasses import replace

import numpy as np

from rbsim import schema, tables
from rbsim.asked import AskedStars, lights_of
from rbsim.build import Partition
from rbsim.catalogue import InjectionCatalogue
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.detect import Detections, detect
from rbsim.errors import InputError, OutputError, out_of_memory
from rbsim.inject import Injected, inject, psf_of_warped
from rbsim.injected_files import ImageFolder, write_injected
from rbsim.inputs import FrameTask, Gain
from rbsim.judge import MIN_RADIUS_PIX, match_asked
from rbsim.known import KnownObjects, known_row
from rbsim.lost import as_detections, choose_lost, lost_stars
from rbsim.match import Matches
from rbsim.observe import (
    Observed,
    features_of,
    name_of,
    observe,
    observed_columns,
    observed_row,
    reason_of,
    stamps_of,
    under_condition,
)
from rbsim.on_frame import pixel_of
from rbsim.population import ask_for_stars
from rbsim.population_settings import Population
from rbsim.psf import Psf
from rbsim.references import ReferenceCache
from rbsim.seeding import stream
from rbsim.significance import MatchedFilter, filter_difference
from rbsim.sites import measure_sites
from rbsim.stamps import Stamps, choose_apart
from rbsim.tables import Tiling

NOT_LINEAR = schema.INJECTION_FLAG["SATURATED"] | schema.INJECTION_FLAG["NONLINEAR"]


def process_frame(
    task: FrameTask,
    references: ReferenceCache,
    config: InjectConfig,
    *,
    gain: Gain | None,
    tiling: Tiling,
    population: Population,
    catalogue: InjectionCatalogue | None,
    known: KnownObjects | None = None,
    images: ImageFolder | None = None,
) -> Partition:
    """Everything that one frame contributes to the store; a failed frame gives its reason.

    Parameters
    ----------
    task : FrameTask
    references : ReferenceCache
        The frame takes that of its field and sensor.
    config : InjectConfig
    gain : Gain or None
        For frames without gain in header and options.
    tiling : Tiling
    population : Population
        Kinds of stars.
    catalogue : InjectionCatalogue or None
        Replaces the population.
    known : KnownObjects or None
        Detections on them are not bogus.
    images : ImageFolder or None
        Where to write the frames with their stars.

    Returns
    -------
    Partition
        With no rows and a reason if the frame cannot be used.
    """
    try:
        observed = observe(task, references, config, gain=gain, tiling=tiling, known=known)
        # The same stars under every condition: drawn from the frame as observed.
        asked = ask_for_stars(observed.as_observed, config, population, catalogue, key=task.key)
        return _sample(task, observed, config, asked, catalogue is None, images)
    except OutputError:
        raise
    except MemoryError as error:
        raise out_of_memory(task.path) from error
    except Exception as error:
        reason = reason_of(error, task.path)
        return tables.failed_partition(name_of(task.path), reason, exposure=task.exposure, block=task.block)


def _sample(
    task: FrameTask,
    observed: Observed,
    config: InjectConfig,
    asked_stars: list[AskedStars],
    n_fixed: bool,
    images: ImageFolder | None,
) -> Partition:
    """Inject, detect, match and cut, one realisation after the other; `n_fixed`: the number is configured."""
    frame, context = observed.frame, observed.context
    psf_at = frame.difference.psf_at
    pieces = [_bogus(task, observed, config)]
    truths: list[tables.Columns] = []
    n_asked = 0
    reference_psf = _reference_psf(frame, asked_stars)
    for realisation, as_drawn in enumerate(asked_stars):
        asked = under_condition(observed, as_drawn)
        n_asked += config.stars_per_frame if n_fixed else len(asked)
        stars = inject(
            frame.science,
            frame.psf,
            frame.difference,
            lights_of(asked),
            reference=frame.reference,
            reference_psf=reference_psf,
            rng=stream(config.seed, "noise", task.key, realisation),
        )
        if images is not None:
            write_injected(images, task, frame, context, asked, stars, config, realisation=realisation)
        filtered = filter_difference(stars.difference)
        found = detect(
            filtered,
            stars.difference.bad,
            threshold_snr=config.threshold_snr,
            psf_at=psf_at,
            negatives=bool(asked.is_negative.any()),
        )
        matches = match_asked(frame, asked, stars.drawn, found, observed.judged.detections, config)
        stamped = np.flatnonzero((matches.detection >= 0) & (config.negatives | ~asked.is_negative))
        chosen = found.select(matches.detection[stamped])
        shown = frame if stars.reference is None else replace(frame, reference=stars.reference)
        cut = stamps_of(shown, stars.science, stars.difference, chosen)
        first_id = tables.injection_id(task.index, realisation, 0)
        candidates = _star_columns(
            observed, config, frame, asked, stars, matches, filtered, chosen, cut, stamped,
            kind=asked.kind[stamped], realisation=realisation, first_id=first_id,
        )  # fmt: skip
        stamp = np.full(len(asked), -1)
        stamp[stamped] = sum(len(piece[0]) for piece in pieces) + np.arange(len(stamped))
        pieces.append((cut.pixels, candidates))
        pieces.append(
            _lost(
                observed, config, shown, asked, stars, matches, found, filtered, chosen,
                realisation=realisation, first_id=first_id, key=task.key,
            )
        )  # fmt: skip
        truths.append(
            tables.truth_columns(
                context,
                asked,
                stars,
                matches,
                found,
                measure_sites(frame.science, frame.psf, frame.difference, frame.reference, asked),
                realisation=realisation,
                first_id=first_id,
                stamp=stamp,
            )
        )
    row = observed_row(task, observed, n_asked=n_asked)
    return tables.join(name_of(task.path), row, pieces, truths)


def _lost(
    observed: Observed,
    config: InjectConfig,
    shown: Subtracted,
    asked: AskedStars,
    stars: Injected,
    matches: Matches,
    found: Detections,
    filtered: MatchedFilter,
    stamped: Detections,
    *,
    realisation: int,
    first_id: int,
    key: int,
) -> tuple[np.ndarray, tables.Columns]:
    """Stamps at the places of stars that are not to be seen; none shares pixels with another of these."""
    reach_pix = max(MIN_RADIUS_PIX, shown.psf.fwhm_pix)
    rows = lost_stars(asked, stars, matches, found, observed.judged.detections, reach_pix=reach_pix)
    places = as_detections(asked, rows, filtered)
    cut = stamps_of(shown, stars.science, stars.difference, places)
    kept, flags = choose_lost(
        cut,
        places,
        matches.ambiguous[rows],
        (stars.flag[rows] & schema.INJECTION_FLAG["ON_MASK"]) != 0,
        _is_full(shown, places),
        stamped,
        threshold_snr=config.threshold_snr,
        rng=stream(config.seed, "thin", key, 2, realisation),
    )
    rows, places = rows[kept], places.select(kept)
    cut = replace(cut, flags=flags).select(kept)
    kind = np.full(len(rows), schema.KIND_CODES["injected_lost"])
    return cut.pixels, _star_columns(
        observed, config, shown, asked, stars, matches, filtered, places, cut, rows,
        kind=kind, realisation=realisation, first_id=first_id,
    )  # fmt: skip


def _star_columns(
    observed: Observed,
    config: InjectConfig,
    frame: Subtracted,
    asked: AskedStars,
    stars: Injected,
    matches: Matches,
    filtered: MatchedFilter,
    places: Detections,
    cut: Stamps,
    rows: np.ndarray,
    *,
    kind: np.ndarray,
    realisation: int,
    first_id: int,
) -> tables.Columns:
    """Columns of the stamps of some rows of the stars asked for, detected or not."""
    return tables.candidate_columns(
        observed.context,
        places,
        cut,
        features_of(frame, stars.difference, filtered, places, config),
        kind=kind,
        realisation=realisation,
        injection_id=first_id + rows,
        host_offset_pix=asked.host_offset_pix[rows],
        ambiguous=matches.ambiguous[rows],
        nonlinear=(stars.flag[rows] & NOT_LINEAR) != 0,
        known_row=known_row(observed.known, places.x_pix, places.y_pix),
        cause=np.full(len(rows), schema.NO_CAUSE),
        fit=frame.difference.fit,
    )


def _is_full(frame: Subtracted, places: Detections) -> np.ndarray:
    """Whether the pixel of each place is saturated in science or reference, shape (n,), bool."""
    x, y = pixel_of(frame, places.x_pix, places.y_pix)
    saturated = schema.MASK["SATURATED"] | schema.MASK["SATURATED_REFERENCE"]
    return np.asarray((frame.difference.mask[y, x] & saturated) != 0)


def _reference_psf(frame: Subtracted, asked_stars: list[AskedStars]) -> Psf | None:
    """PSF of the reference on the frame's pixels if a star shines in it; None if not, or if it has none."""
    if not any((asked.reference_flux_adu != 0).any() for asked in asked_stars):
        return None
    try:
        return psf_of_warped(frame.reference)
    except InputError:
        return None  # inject flags the stars


def _bogus(task: FrameTask, observed: Observed, config: InjectConfig) -> tuple[np.ndarray, tables.Columns]:
    """Stamps of what is detected without injection, none of which overlap; negatives where there is room."""
    everything, kind = observed.judged.detections, observed.judged.kind
    xy = tables.positions(everything)
    positive = np.flatnonzero(everything.is_positive)
    rows = positive[
        choose_apart(
            *xy[positive].T,
            first=kind[positive] == schema.KIND_CODES["emulated_transient"],
            rng=stream(config.seed, "thin", task.key),
        )
    ]
    if config.negatives:
        negative = np.flatnonzero(~everything.is_positive)
        more = choose_apart(
            *xy[negative].T,
            first=np.zeros(len(negative), bool),
            rng=stream(config.seed, "thin", task.key, 1),
            taken=xy[rows],
        )
        rows = np.concatenate([rows, negative[more]])
    cut, columns = observed_columns(observed, rows, config)
    return cut.pixels, columns
