"""One frame end to end: read, register, subtract, detect, inject, match, cut. Read it top to bottom."""

import logging
from dataclasses import dataclass

import numpy as np

from rbsim import schema, tables
from rbsim.build import Partition
from rbsim.catalogue import InjectionCatalogue
from rbsim.cause import TrueArtefacts
from rbsim.chain import Subtracted, subtract_frame
from rbsim.config import InjectConfig
from rbsim.detect import Detections, detect
from rbsim.difference import Difference
from rbsim.errors import InputError
from rbsim.features import Features, measure_features
from rbsim.frame import DetectorOptions, Frame, read_frame, with_gain
from rbsim.inject import inject
from rbsim.judge import Judged, judge, match_truth
from rbsim.known import KnownInFrame, KnownObjects, known_in, known_row
from rbsim.place import Places, place, place_catalogue
from rbsim.references import ReferenceCache, find_reference
from rbsim.seeding import stream
from rbsim.significance import MatchedFilter, filter_difference
from rbsim.sites import measure_sites
from rbsim.stamps import Stamps, choose_apart, cut_stamps
from rbsim.tables import FrameContext, Tiling

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gain:
    """Gain for frames whose headers have none, electrons per ADU, with its error."""

    gain_e_per_adu: float
    gain_err_e_per_adu: float


@dataclass(frozen=True, eq=False)
class FrameTask:
    """What one frame's work needs beside the frame itself.

    Attributes
    ----------
    path : str
        FITS file, perhaps with ``[EXT]``.
    key : int
        Identifies the content; all random streams of the frame hang on it.
    index, exposure, block : int
        Row in the frames group, order in time, exposure block.
    transients_xy : ndarray, shape (n, 2), or None
        Positions of the emulator's transients in this frame; None for a real frame.
    artefacts, reference_artefacts : TrueArtefacts or None
        What the emulator put into this frame, and into the reference (in its pixels); None if not known.
    """

    path: str
    key: int
    index: int
    exposure: int
    block: int
    transients_xy: np.ndarray | None
    artefacts: TrueArtefacts | None = None
    reference_artefacts: TrueArtefacts | None = None


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
    options = DetectorOptions(
        config.gain_e_per_adu, config.read_noise_e, config.saturation_adu, config.zero_point_mag
    )
    try:
        science = read_frame(task.path, options=options)
        if np.isnan(science.detector.gain_e_per_adu):
            if gain is None:
                raise InputError(f"{task.path}: no gain in the header; give --gain (electrons per ADU)")
            science = with_gain(science, gain.gain_e_per_adu, gain.gain_err_e_per_adu)
        number = find_reference(references.cards, science)
        frame = subtract_frame(science, references.get(number), config.subtract)
        here = None if known is None else known_in(known, science)
        return _sample(task, frame, config, tiling, catalogue, here, reference_number=number)
    except Exception as error:
        if not isinstance(error, InputError):
            log.exception("%s: failed in a way that rbsim does not know", task.path)
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        reason = text if task.path in text else f"{task.path}: {text.removeprefix(_name(task.path) + ': ')}"
        log.info("%s", reason)
        return tables.failed_partition(_name(task.path), reason, exposure=task.exposure, block=task.block)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _sample(
    task: FrameTask,
    frame: Subtracted,
    config: InjectConfig,
    tiling: Tiling,
    catalogue: InjectionCatalogue | None,
    known: KnownInFrame | None,
    *,
    reference_number: int,
) -> Partition:
    context = FrameContext(
        science=frame.science,
        transform=frame.transform,
        tiling=tiling,
        block=task.block,
        # Tiles of the same number on two references are different sky.
        group_block=reference_number * config.n_blocks + task.block,
        fwhm_pix=frame.psf.fwhm_pix,
    )
    psf_at = frame.difference.psf_at
    detections = detect(
        frame.filtered, frame.difference.bad, threshold_snr=config.threshold_snr, psf_at=psf_at
    )
    judged = judge(
        frame,
        detections,
        config,
        known=known,
        transients_xy=task.transients_xy,
        artefacts=task.artefacts,
        reference_artefacts=task.reference_artefacts,
    )
    pieces = [_bogus(task, frame, context, judged, config)]
    before = detections.select(detections.is_positive)
    truths: list[tables.Columns] = []
    n_asked = 0
    for realisation, places in enumerate(_places(task, frame, config, catalogue)):
        n_asked += config.stars_per_frame if catalogue is None else len(places.flag)
        flux, snr = _fluxes(task, frame, config, catalogue, places, realisation)
        stars = inject(
            frame.science,
            frame.psf,
            frame.difference,
            places,
            flux,
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
        cut = _cut(frame, stars.science, stars.difference, chosen)
        first_id = tables.injection_id(task.index, realisation, 0)
        candidates = tables.candidate_columns(
            context,
            chosen,
            cut,
            _features(frame, stars.difference, filtered, chosen, config),
            kind=places.kind[stamped],
            realisation=realisation,
            injection_id=first_id + stamped,
            host_offset_pix=places.host_offset_pix[stamped],
            ambiguous=matches.ambiguous[stamped],
            nonlinear=(stars.flag[stamped] & schema.INJECTION_FLAG["SATURATED"]) != 0,
            known_row=known_row(known, chosen.x_pix, chosen.y_pix),
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
    false = judged.kind == schema.KIND_CODES["artefact"]
    row = tables.frame_row(
        frame,
        context,
        exposure=task.exposure,
        n_asked=n_asked,
        n_positive=int(np.count_nonzero(detections.is_positive)),
        n_negative=int(np.count_nonzero(~detections.is_positive)),
        n_known=int(np.count_nonzero(judged.kind == schema.KIND_CODES["known_object"])),
        n_false=tables.count_false(None if task.artefacts is None else judged.cause[false]),
    )
    return tables.join(_name(task.path), row, pieces, truths)


def _features(
    frame: Subtracted,
    difference: Difference,
    filtered: MatchedFilter,
    detections: Detections,
    config: InjectConfig,
) -> Features:
    return measure_features(
        difference,
        filtered,
        detections,
        reference_sources=frame.reference_sources,
        hosts=frame.hosts,
        one_frame=((frame.science.mask | frame.reference.mask) & schema.MASK["ONE_FRAME"]) != 0,
        fwhm_pix=frame.psf.fwhm_pix,
        threshold_snr=config.threshold_snr,
    )


def _cut(frame: Subtracted, science: Frame, difference: Difference, detections: Detections) -> Stamps:
    """Stamps of detections, the reference brought to the science frame's flux scale."""
    return cut_stamps(
        frame.reference.image * np.float32(difference.flux_scale),
        science.image,
        difference,
        detections.x_pix,
        detections.y_pix,
        fwhm_pix=frame.psf.fwhm_pix,
    )


def _bogus(
    task: FrameTask, frame: Subtracted, context: FrameContext, judged: Judged, config: InjectConfig
) -> tuple[np.ndarray, tables.Columns]:
    """Stamps of what is detected without injection, none of which overlap; negatives where there is room."""
    everything, kind = judged.detections, judged.kind
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
    chosen = everything.select(rows)
    cut = _cut(frame, frame.science, frame.difference, chosen)
    none = np.zeros(len(rows), bool)
    return cut.pixels, tables.candidate_columns(
        context,
        chosen,
        cut,
        _features(frame, frame.difference, frame.filtered, chosen, config),
        kind=kind[rows],
        realisation=-1,
        injection_id=np.full(len(rows), -1),
        host_offset_pix=np.full(len(rows), np.nan),
        ambiguous=none,
        nonlinear=none,
        known_row=judged.known_row[rows],
        cause=judged.cause[rows],
        fit=frame.difference.fit,
    )


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
