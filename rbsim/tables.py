"""The columns of one frame's partition, built from what the pipeline measured."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rbsim import schema
from rbsim.aperture import encircled_energy
from rbsim.asked import AskedStars
from rbsim.catalogue import pixel_scale_arcsec
from rbsim.detect import Detections
from rbsim.features import Features
from rbsim.frame import Frame
from rbsim.inject import Injected
from rbsim.kernel import KernelFit
from rbsim.match import Matches
from rbsim.partition import Partition, no_rows, no_stamps
from rbsim.psf import Psf
from rbsim.schema import CANDIDATE_FLAG, KIND_CODES, LABEL_BOGUS, LABEL_EXCLUDED
from rbsim.sites import Sites
from rbsim.stamps import Stamps
from rbsim.transform import Transform

if TYPE_CHECKING:
    from rbsim.chain import Subtracted

Columns = dict[str, np.ndarray]

NOT_DETECTED = (KIND_CODES["injected_lost"], KIND_CODES["forced"])


@dataclass(frozen=True, eq=False)
class Tiling:
    """Sky tiles on the reference grid: borders in pixels, ascending; tile = row * n_columns + column."""

    x_edges_pix: np.ndarray
    y_edges_pix: np.ndarray

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return (len(self.x_edges_pix) - 1) * (len(self.y_edges_pix) - 1)

    def tile_of(self, x_ref_pix: np.ndarray, y_ref_pix: np.ndarray) -> np.ndarray:
        """Tile numbers of positions on the reference grid; those outside count to the nearest tile."""
        columns = np.clip(
            np.searchsorted(self.x_edges_pix, x_ref_pix, side="right") - 1, 0, len(self.x_edges_pix) - 2
        )
        rows = np.clip(
            np.searchsorted(self.y_edges_pix, y_ref_pix, side="right") - 1, 0, len(self.y_edges_pix) - 2
        )
        return rows * (len(self.x_edges_pix) - 1) + columns


def make_tiling(shape: tuple[int, int], tile_pix: float) -> Tiling:
    """Equal tiles of about `tile_pix` a side over a reference of shape (ny, nx)."""
    edges = [np.linspace(-0.5, size - 0.5, max(1, round(size / tile_pix)) + 1) for size in shape]
    return Tiling(x_edges_pix=edges[1], y_edges_pix=edges[0])


@dataclass(frozen=True, eq=False)
class FrameContext:
    """What all rows of a frame share; `group_block` numbers the blocks of all references.

    `zero_point_aperture_pix` is the radius of the aperture in which the zero point holds; None: all light.
    `reference` is the code of the reference in a paired store. There, `transform` and `group_block` are those
    of the first reference, so that one place has one tile and one group.
    """

    science: Frame
    transform: Transform
    tiling: Tiling
    block: int
    group_block: int
    fwhm_pix: float
    psf: Psf
    zero_point_aperture_pix: float | None
    reference: int = 0

    def on_reference(self, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions on the reference grid; NaN stays NaN."""
        return self.transform.apply(np.asarray(x_pix, float), np.asarray(y_pix, float))

    def magnitude(self, flux_adu: np.ndarray, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        """Magnitudes of stars of these fluxes; NaN where not positive."""
        light = np.where(flux_adu > 0, flux_adu, np.nan)
        if self.zero_point_aperture_pix is not None:
            light = light * encircled_energy(self.psf, x_pix, y_pix, radius_pix=self.zero_point_aperture_pix)
        return np.asarray(self.science.zero_point_mag - 2.5 * np.log10(light))


def positions(detections: Detections) -> np.ndarray:
    """Positions as an array, shape (n, 2)."""
    return np.column_stack([detections.x_pix, detections.y_pix])


def injection_id(frame_index: int, realisation: int, row: int) -> int:
    """Identifier unique within a store: six digits for the row, three for the realisation."""
    return (frame_index * 1000 + realisation) * 1_000_000 + row


def candidate_columns(
    context: FrameContext,
    detections: Detections,
    cut: Stamps,
    features: Features,
    *,
    kind: np.ndarray,
    realisation: int,
    injection_id: np.ndarray,
    host_offset_pix: np.ndarray,
    ambiguous: np.ndarray,
    nonlinear: np.ndarray,
    known_row: np.ndarray,
    cause: np.ndarray,
    fit: KernelFit,
) -> Columns:
    """Columns of schema.CANDIDATE_COLUMNS, except ``frame``."""
    n = len(detections)
    science = context.science
    jacobian = np.abs(context.transform.jacobian(*np.array(science.shape[::-1])[:, None] / 2.0)[0])
    labels = np.array([schema.label_of_kind(int(k)) for k in kind], int).reshape(n, 2)
    labels[~detections.is_positive, 0] = LABEL_EXCLUDED  # also a star that faded
    given = labels[:, 0].copy()
    # The emulator's own transients are for testing; a survey would not know them, nor see what is lost.
    unseen = np.isin(kind, [KIND_CODES["emulated_transient"], *NOT_DETECTED])
    given[unseen | ambiguous] = LABEL_EXCLUDED
    flags = cut.flags | features.flags
    for name, hit in (
        ("AMBIGUOUS", ambiguous),
        ("NONLINEAR", nonlinear),
        ("ON_FIT_STAMP", _on_stamp(detections, fit)),
        ("KNOWN", known_row >= 0),
        ("FORCED", kind == KIND_CODES["forced"]),
    ):
        flags[hit] |= np.uint32(CANDIDATE_FLAG[name])
    ra, dec = sky_of(science, detections.x_pix, detections.y_pix)
    return {
        "realisation": np.full(n, realisation),
        "injection_id": injection_id,
        "kind": kind,
        "label_true": labels[:, 0],
        "label_true_source": labels[:, 1],
        "label_given": given,
        "x_pix": detections.x_pix,
        "y_pix": detections.y_pix,
        "x0_pix": cut.x0_pix,
        "y0_pix": cut.y0_pix,
        **place_columns(context, detections.x_pix, detections.y_pix),
        "footprint_half_ref_pix": np.full(n, schema.STAMP_SIZE_PIX / 2 * jacobian.sum(axis=1).max()),
        "ra_deg": ra,
        "dec_deg": dec,
        "snr": detections.snr,
        "flux_adu": detections.flux_adu,
        "flux_err_adu": detections.flux_err_adu,
        "position_err_pix": detections.position_err_pix,
        "is_positive": detections.is_positive,
        "mag": context.magnitude(detections.flux_adu, detections.x_pix, detections.y_pix),
        "zero_point_mag": np.full(n, science.zero_point_mag),
        "noise_adu": cut.noise_adu,
        "fwhm_pix": np.full(n, context.fwhm_pix),
        "host_offset_pix": host_offset_pix,
        **{name: values for name, values in vars(features).items() if name != "flags"},
        "known_row": known_row,
        "cause": cause,
        "flags": flags,
        "sensor": np.full(n, science.sensor),
        "block": np.full(n, context.block),
        "reference": np.full(n, context.reference),
        "pair": np.full(n, -1),
        "found_with": np.where(np.isin(kind, NOT_DETECTED), 0, 1 << context.reference),
    }


def place_columns(context: FrameContext, x_pix: np.ndarray, y_pix: np.ndarray) -> Columns:
    """Columns that say where on the sky a stamp is, from positions in the frame, shape (n,)."""
    x_ref, y_ref = context.on_reference(x_pix, y_pix)
    tile = context.tiling.tile_of(x_ref, y_ref)
    group = context.group_block * context.tiling.n_tiles + tile
    return {"x_ref_pix": x_ref, "y_ref_pix": y_ref, "tile": tile, "group": group}


def _on_stamp(detections: Detections, fit: KernelFit) -> np.ndarray:
    off_x = np.abs(detections.x_pix[:, None] - fit.stamp_x_pix[None, :])
    off_y = np.abs(detections.y_pix[:, None] - fit.stamp_y_pix[None, :])
    return np.asarray((np.maximum(off_x, off_y) <= fit.stamp_half_pix).any(axis=1))


def sky_of(frame: Frame, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ICRS positions in degrees; NaN without WCS."""
    if frame.wcs is None or not len(x_pix):
        return np.full(len(x_pix), np.nan), np.full(len(x_pix), np.nan)
    ra, dec = frame.wcs.pixel_to_world_values(x_pix, y_pix)
    return np.asarray(ra, float), np.asarray(dec, float)


def truth_columns(
    context: FrameContext,
    asked: AskedStars,
    stars: Injected,
    matches: Matches,
    found: Detections,
    sites: Sites,
    *,
    realisation: int,
    first_id: int,
    stamp: np.ndarray,
) -> Columns:
    """Columns of schema.TRUTH_COLUMNS, except ``frame``: all stars asked for, then what else they caused."""
    n = len(asked)
    caused = found.select(matches.unmatched)
    m = len(caused)
    x, y = np.concatenate([asked.x_pix, caused.x_pix]), np.concatenate([asked.y_pix, caused.y_pix])
    x_ref, y_ref = context.on_reference(x, y)

    def both(of_stars: np.ndarray, of_caused: Any) -> np.ndarray:
        return np.concatenate([of_stars, np.broadcast_to(of_caused, m)])

    return {
        "injection_id": both(first_id + np.arange(n), -1),
        "realisation": np.full(n + m, realisation),
        "kind": both(asked.kind, -1),
        "catalogue_id": both(asked.catalogue_id, -1),
        "x_pix": x,
        "y_pix": y,
        "x_ref_pix": x_ref,
        "y_ref_pix": y_ref,
        "flux_adu": both(asked.flux_adu, caused.flux_adu),
        "reference_flux_adu": both(asked.reference_flux_adu, 0),
        "injected_in": both(asked.injected_in, schema.INJECTED_IN["science"]),
        "mag": context.magnitude(both(asked.net_flux_adu, caused.flux_adu), x, y),
        "snr": both(asked.snr, caused.snr),
        "snr_expected": both(sites.snr_expected, np.nan),
        "trail_length_pix": both(asked.trail_length_pix, 0),
        "trail_angle_deg": both(asked.trail_angle_deg, 0),
        "n_cube_frames": both(asked.n_cube_frames, 0),
        "delta_mag": both(asked.delta_mag, np.nan),
        "star_flux_adu": both(asked.star_flux_adu, np.nan),
        "host_offset_pix": both(asked.host_offset_pix, np.nan),
        "host_pa_deg": both(asked.host_pa_deg, np.nan),
        "host_radius_pix": both(asked.host_radius_pix, np.nan),
        "host_sb_mag_per_pix2": both(sites.host_sb_mag_per_pix2, np.nan),
        "injection_flag": both(stars.flag, 0),
        "injected": both(stars.drawn, False),
        "detected": both(matches.detection >= 0, True),
        "ambiguous": both(matches.ambiguous, False),
        "separation_pix": both(matches.separation_pix, np.nan),
        "stamp": both(stamp, -1),
    }


def frame_row(
    frame: "Subtracted",
    context: FrameContext,
    *,
    exposure: int,
    n_asked: int,
    n_positive: int,
    n_negative: int,
    n_known: int,
    n_false: dict[str, int],
    n_common: int = -1,
) -> dict[str, Any]:
    """Values of schema.FRAME_COLUMNS of a frame that worked; the counts of stamps come with `join`."""
    science, difference = frame.science, frame.difference
    detector = science.detector
    return {
        "sensor": science.sensor,
        "exposure": exposure,
        "block": context.block,
        "ok": True,
        "gain_e_per_adu": detector.gain_e_per_adu,
        "gain_err_e_per_adu": detector.gain_err_e_per_adu,
        "read_noise_e": detector.read_noise_e,
        "saturation_adu": detector.saturation_adu,
        "zero_point_mag": science.zero_point_mag,
        "zero_point_calibrated": science.zero_point_calibrated,
        "pixel_scale_arcsec": pixel_scale_arcsec(science),
        "sky_adu": float(np.median(science.sky_adu)),
        "noise_adu": float(np.median(np.sqrt(science.variance[~science.bad]))),
        "fwhm_pix": context.fwhm_pix,
        **psf_columns(frame.psf),
        "registration_rms_pix": frame.transform.rms_pix,
        "convolved_science": difference.convolved == "science",
        **frame.quality.as_dict(),
        "n_asked": n_asked,
        "n_bogus_detected": n_positive,
        "n_negative": n_negative,
        "n_known": n_known,
        "reference": context.reference,
        "n_common": n_common,
        **{f"n_false_{name}": count for name, count in n_false.items()},
        **{spec.name: np.nan for spec in schema.CONDITION_COLUMNS},
    }


def psf_columns(psf: Psf) -> dict[str, Any]:
    """Values of schema.PSF_COLUMNS."""
    quality = psf.quality
    e1, e2 = psf.ellipticity
    of_width, of_e1, of_e2 = quality.shape_scatter_pix2
    return {
        "n_psf_stars": quality.n_stars,
        "psf_order": psf.order,
        "psf_is_moffat": quality.is_moffat,
        "psf_fwhm_err_pix": quality.fwhm_err_pix,
        "psf_e1": e1,
        "psf_e2": e2,
        "psf_chi2": quality.chi2_per_pixel,
        "psf_scatter_width_pix2": of_width,
        "psf_scatter_e1_pix2": of_e1,
        "psf_scatter_e2_pix2": of_e2,
        "psf_aperture_ratio": quality.aperture_ratio,
        "psf_aperture_ratio_err": quality.aperture_ratio_err,
    }


def failed_row(exposure: int, block: int) -> dict[str, Any]:
    """Values of schema.FRAME_COLUMNS of a frame that could not be used."""
    row: dict[str, Any] = {
        s.name: (np.nan if np.dtype(s.dtype).kind == "f" else 0) for s in schema.FRAME_COLUMNS
    }
    return row | {"exposure": exposure, "block": block}


def failed_partition(name: str, reason: str, *, exposure: int, block: int, reference: int = 0) -> Partition:
    """A partition without rows for a frame that could not be used."""
    row = failed_row(exposure, block) | {"reference": reference}
    return Partition(name, reason, row, no_stamps(), no_rows("candidates"), no_rows("truth"))


def count_false(cause: np.ndarray | None) -> dict[str, int]:
    """False positives by the artefact that caused them, and without one; -1 each where nothing is known."""
    names = {artefact.name: artefact.code for artefact in schema.ARTEFACTS}
    names["unexplained"] = schema.NO_CAUSE
    return {
        name: -1 if cause is None else int(np.count_nonzero(cause == code)) for name, code in names.items()
    }


def join(
    name: str, row: dict[str, Any], pieces: list[tuple[np.ndarray, Columns]], truths: list[Columns]
) -> Partition:
    """One partition from the pieces of the realisations, with the counts filled in."""
    stamps = np.concatenate([pixels for pixels, _ in pieces])
    candidates = {key: np.concatenate([columns[key] for _, columns in pieces]) for key in pieces[0][1]}
    truth = {key: np.concatenate([columns[key] for columns in truths]) for key in truths[0]}
    star = truth["injection_id"] >= 0
    row = row | {
        "n_injected": int(np.count_nonzero(truth["injected"])),
        "n_near_galaxy": int(
            np.count_nonzero(truth["injected"] & (truth["kind"] == KIND_CODES["injected_near_galaxy"]))
        ),
        "n_detected": int(np.count_nonzero(star & truth["detected"])),
        # Glints and lost stars are bogus too, but injected.
        "n_bogus": int(
            np.count_nonzero((candidates["label_true"] == LABEL_BOGUS) & (candidates["injection_id"] < 0))
        ),
    }
    return Partition(name, "", row, stamps, candidates, truth)
