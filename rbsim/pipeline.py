"""One frame end to end: read, register, subtract, detect, inject, match, cut. Read it top to bottom."""

import numpy as np

from rbsim import schema, tables
from rbsim.build import Partition
from rbsim.catalogue import InjectionCatalogue
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.detect import detect
from rbsim.inject import inject
from rbsim.inputs import FrameTask, Gain
from rbsim.judge import match_truth
from rbsim.known import KnownObjects, known_row
from rbsim.lights import point_lights
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
from rbsim.place import Places, place, place_catalogue
from rbsim.references import ReferenceCache
from rbsim.seeding import stream
from rbsim.significance import filter_difference
from rbsim.sites import measure_sites
from rbsim.stamps import choose_apart
from rbsim.tables import Tiling


def process_frame(
    task: FrameTask,
    references: ReferenceCache,
    config: InjectConfig,
    *,
    gain: Gain | None,
    tiling: Tiling,
    catalogue: InjectionCatalogue | None,
    known: KnownObjects | None = None,
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
    catalogue : InjectionCatalogue or None
        Replaces random and near-galaxy stars.
    known : KnownObjects or None
        Detections on them are not bogus.

    Returns
    -------
    Partition
        With no rows and a reason if the frame cannot be used.
    """
    try:
        observed = observe(task, references, config, gain=gain, tiling=tiling, known=known)
        return _sample(task, observed, config, catalogue)
    except Exception as error:
        reason = reason_of(error, task.path)
        return tables.failed_partition(name_of(task.path), reason, exposure=task.exposure, block=task.block)


def _sample(
    task: FrameTask, observed: Observed, config: InjectConfig, catalogue: InjectionCatalogue | None
) -> Partition:
    frame, context = observed.frame, observed.context
    psf_at = frame.difference.psf_at
    pieces = [_bogus(task, observed, config)]
    detections = observed.judged.detections
    before = detections.select(detections.is_positive)
    truths: list[tables.Columns] = []
    n_asked = 0
    # The same stars under every condition: drawn from the frame as observed, seen through the same clouds.
    for realisation, at_first in enumerate(_places(task, observed.as_observed, config, catalogue)):
        n_asked += config.stars_per_frame if catalogue is None else len(at_first.flag)
        as_drawn = _fluxes(task, observed.as_observed, config, catalogue, at_first, realisation)
        places, flux, snr = under_condition(observed, at_first, *as_drawn)
        stars = inject(
            frame.science,
            frame.psf,
            frame.difference,
            point_lights(places.x_pix, places.y_pix, flux, places.flag),
            rng=stream(config.seed, "noise", task.key, realisation),
        )
        filtered = filter_difference(stars.difference)
        found = detect(
            filtered,
            stars.difference.bad,
            threshold_snr=config.threshold_snr,
            psf_at=psf_at,
            negatives=False,
        )
        truth_xy = np.column_stack([places.x_pix, places.y_pix])
        truth_xy[~stars.drawn] = np.nan
        matches = match_truth(frame, truth_xy, snr, found, before, config)
        stamped = np.flatnonzero(matches.detection >= 0)
        chosen = found.select(matches.detection[stamped])
        cut = stamps_of(frame, stars.science, stars.difference, chosen)
        first_id = tables.injection_id(task.index, realisation, 0)
        candidates = tables.candidate_columns(
            context,
            chosen,
            cut,
            features_of(frame, stars.difference, filtered, chosen, config),
            kind=places.kind[stamped],
            realisation=realisation,
            injection_id=first_id + stamped,
            host_offset_pix=places.host_offset_pix[stamped],
            ambiguous=matches.ambiguous[stamped],
            nonlinear=(stars.flag[stamped] & schema.INJECTION_FLAG["SATURATED"]) != 0,
            known_row=known_row(observed.known, chosen.x_pix, chosen.y_pix),
            cause=np.full(len(chosen), schema.NO_CAUSE),
            fit=frame.difference.fit,
        )
        n_before = sum(len(piece[0]) for piece in pieces)
        pieces.append((cut.pixels, candidates))
        truths.append(
            tables.truth_columns(
                context,
                places,
                flux,
                snr,
                stars,
                matches,
                found,
                measure_sites(frame.science, frame.psf, frame.difference, frame.reference, places, flux),
                realisation=realisation,
                first_id=first_id,
                stamp=np.where(matches.detection >= 0, n_before + np.cumsum(matches.detection >= 0) - 1, -1),
            )
        )
    row = observed_row(task, observed, n_asked=n_asked)
    return tables.join(name_of(task.path), row, pieces, truths)


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


def _places(
    task: FrameTask, frame: Subtracted, config: InjectConfig, catalogue: InjectionCatalogue | None
) -> list[Places]:
    usable = ~frame.difference.bad & np.isfinite(frame.filtered.flux_err_adu)
    fwhm = frame.psf.fwhm_pix
    if catalogue is not None:
        x, y = catalogue.positions_in(frame.science)
        return place_catalogue(x, y, catalogue.flag, usable, realisations=config.realisations, fwhm_pix=fwhm)
    return [
        place(
            usable,
            frame.hosts,
            n_stars=config.stars_per_frame,
            near_galaxy=config.near_galaxy,
            fwhm_pix=fwhm,
            rng=stream(config.seed, "place", task.key, realisation),
        )
        for realisation in range(config.realisations)
    ]


def _fluxes(
    task: FrameTask,
    frame: Subtracted,
    config: InjectConfig,
    catalogue: InjectionCatalogue | None,
    places: Places,
    realisation: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Flux in ADU and expected S/N of each place; log-uniform in S/N unless a catalogue gives magnitudes."""
    ny, nx = frame.science.shape
    x = np.clip(np.nan_to_num(np.rint(places.x_pix)), 0, nx - 1).astype(int)
    y = np.clip(np.nan_to_num(np.rint(places.y_pix)), 0, ny - 1).astype(int)
    error = frame.filtered.flux_err_adu[y, x].astype(float)
    if catalogue is not None:
        flux = 10 ** (-0.4 * (catalogue.mag[places.row] - frame.science.zero_point_mag))
        flux = np.where(np.isfinite(flux), flux, 0.0)
        return flux, flux / error
    uniform = stream(config.seed, "flux", task.key, realisation).random(len(x))
    snr = np.exp(np.log(config.snr_min) + uniform * np.log(config.snr_max / config.snr_min))
    return snr * error, snr
