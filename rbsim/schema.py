"""The vocabulary of the store as data: kinds, labels, flag bits, mask planes, arrays, format version.

Writer, reader, docs and tests all read the tables of this module (the columns of the truth live in
`rbsim.truth_schema`, the classes of artefacts in `rbsim.artefact_schema`); nothing else defines a name, a
bit or a dtype of the store.
"""

from dataclasses import dataclass

import numpy as np

from rbsim import artefact_schema, truth_schema
from rbsim.frame_schema import CONDITION_COLUMNS, PSF_COLUMNS
from rbsim.pair_schema import PAIR_COLUMNS, PAIR_FRAME_COLUMNS
from rbsim.truth_schema import ArraySpec

FORMAT_NAME = "rbsim-store"
FORMAT_VERSION = 5
READABLE_VERSIONS = (4, 5)

STAMP_SIZE_PIX = 29
STAMP_HALF_PIX = STAMP_SIZE_PIX // 2
CHANNELS = ("reference", "science", "difference")
STAMP_SHAPE = (len(CHANNELS), STAMP_SIZE_PIX, STAMP_SIZE_PIX)

SHARD_STAMPS = 16_384
CHUNK_STAMPS = 256
COLUMN_CHUNK = 262_144  # rows of a table

LABEL_REAL = 1
LABEL_BOGUS = 0
LABEL_EXCLUDED = -1
"""Neither trained on nor scored; as a *given* label inside a recipe it also means «unlabelled»."""

LABEL_SOURCES = {"assumed": 0, "injected": 1, "emulator": 2}
"""Where `label_true` comes from. A detection on a real frame is only *assumed* to be bogus."""


@dataclass(frozen=True)
class Kind:
    """What a candidate is, and the true label that follows from it."""

    code: int
    name: str
    label_true: int
    label_true_source: str
    description: str


KINDS = (
    Kind(
        0, "detection", LABEL_BOGUS, "assumed", "detected on a real frame; nothing is known about its cause"
    ),
    Kind(
        1,
        "artefact",
        LABEL_BOGUS,
        "emulator",
        "detected on an emulated frame away from every emulated transient",
    ),
    Kind(2, "injected_random", LABEL_REAL, "injected", "injected star at a random position"),
    Kind(3, "injected_near_galaxy", LABEL_REAL, "injected", "injected star near an extended source"),
    Kind(4, "emulated_transient", LABEL_REAL, "emulator", "transient drawn by the emulator, never by inject"),
    Kind(5, "injected_catalogue", LABEL_REAL, "injected", "injected star at a position the user gave"),
    Kind(
        6, "known_object", LABEL_EXCLUDED, "assumed", "detected at an object of the catalogue of known ones"
    ),
    Kind(7, "negative", LABEL_EXCLUDED, "assumed", "negative source of the difference, stored if asked for"),
    Kind(
        8,
        "injected_variable",
        LABEL_REAL,
        "injected",
        "star of the reference made to vary; excluded where it shows as a negative source",
    ),
    Kind(9, "injected_moving", LABEL_REAL, "injected", "injected star that moves during the exposure"),
    Kind(10, "injected_flare", LABEL_REAL, "injected", "injected star in some single frames of a cube"),
    Kind(11, "injected_glint", LABEL_BOGUS, "injected", "flash of a satellite in a single frame of a cube"),
    Kind(
        12,
        "injected_lost",
        LABEL_BOGUS,
        "injected",
        "place of an injected star that is not detected: on a mask, in a saturated core, below the noise",
    ),
    Kind(
        13,
        "forced",
        LABEL_EXCLUDED,
        "assumed",
        "of a paired store: detected at this place with another reference, not with this one",
    ),
)
KIND_CODES = {kind.name: kind.code for kind in KINDS}


@dataclass(frozen=True)
class Flag:
    """One bit of a flag column or mask plane."""

    bit: int
    name: str
    description: str

    @property
    def value(self) -> int:
        """The integer with only this bit set."""
        return 1 << self.bit


MASK_PLANES = (
    Flag(0, "BAD", "NaN or masked in the input; NaN in the working image"),
    Flag(1, "SATURATED", "at or above the saturation level; the value is kept"),
    Flag(2, "EDGE", "outside the image, or so close to its border or a hole that a convolution has no value"),
    Flag(3, "NO_REFERENCE", "the reference has no valid pixel here"),
    Flag(4, "SATURATED_REFERENCE", "saturated in the reference"),
    Flag(5, "INJECTED", "touched by an injected star"),
    Flag(
        6, "ONE_FRAME", "one single frame of a cube or stack dominates the value, or would without clipping"
    ),
)
MASK = {plane.name: plane.value for plane in MASK_PLANES}

CANDIDATE_FLAGS = (
    Flag(0, "EDGE", "part of the stamp lies outside the frame; those pixels are NaN"),
    Flag(1, "MASK_SCIENCE", "a bad science pixel within the stamp"),
    Flag(2, "MASK_REFERENCE", "a pixel without reference within the stamp"),
    Flag(3, "SATURATED", "a saturated science or reference pixel within one FWHM of the position"),
    Flag(4, "AMBIGUOUS", "more than one possible cause within the match radius; label_given is -1"),
    Flag(5, "NONLINEAR", "the injected star lost flux to saturation"),
    Flag(6, "ON_FIT_STAMP", "lies on a stamp of the kernel fit, where linearity is weakest"),
    Flag(7, "NEAR_SATURATED", "a saturated science or reference pixel within three FWHM of the position"),
    Flag(8, "NEAR_BRIGHT_STAR", "one per cent of a bright reference star's profile would be detected here"),
    Flag(9, "ON_GALAXY_CORE", "within one half-light radius (at least 1 px) of an extended reference source"),
    Flag(10, "ONE_FRAME", "a pixel of the mask plane ONE_FRAME within 1 px, in science or reference"),
    Flag(11, "KNOWN", "an object of the catalogue of known ones lies here"),
    Flag(12, "ON_MASK", "place of a lost star whose central pixel is bad or has no reference"),
    Flag(13, "FORCED", "not detected with this reference: cut where another one of a paired store found it"),
)
CANDIDATE_FLAG = {flag.name: flag.value for flag in CANDIDATE_FLAGS}

LOST_REASONS = ("mask", "core", "noise")
"""Why the stamp of an injected star shows none: on a mask, in a saturated core, below the noise."""


INJECTION_FLAGS = (
    # Bits 0 to 5 have the names and meanings of LSST source_injection; ours start at 8.
    Flag(0, "MAG_BAD", "magnitude is NaN or infinite"),
    Flag(1, "TYPE_UNKNOWN", "source_type is not known"),
    Flag(2, "SERSIC_EXTREME", "Sersic index out of range (not used by rbsim)"),
    Flag(3, "NO_OVERLAP", "the star lies outside the frame"),
    Flag(4, "FFT_SIZE_ERROR", "the image of the star would be too large (not used by rbsim)"),
    Flag(5, "PSF_COMPUTE_ERROR", "the PSF could not be evaluated at this position"),
    Flag(8, "SATURATED", "star plus frame reaches saturation; flux was clipped"),
    Flag(9, "ON_MASK", "the central pixel is bad or has no reference"),
    Flag(10, "CROWDED", "no room beside the other injected stars; not drawn"),
    Flag(11, "NO_CUBE", "is to shine in single frames, and the frame is not the stack of a cube"),
    Flag(12, "NO_STAR", "is to vary, and there is no star for it, or one with less light than it would lose"),
    Flag(13, "NO_SCALE", "pixel scale or exposure time not known, so the trail has no length in pixels"),
    Flag(14, "PARAMETER_BAD", "trail_length, beta, delta_mag, injected_in or n_cube_frames makes no sense"),
    Flag(16, "NONLINEAR", "the detector's response changes the flux by more than 1 %"),
    Flag(17, "OVERDRAWN", "more light was to be taken away than there is"),
    Flag(18, "ON_FIT_STAMP", "on a stamp of the kernel fit, and bright enough to move the fit"),
    Flag(19, "MOVES_BACKGROUND", "so bright and wide that the background follows it"),
)
INJECTION_FLAG = {flag.name: flag.value for flag in INJECTION_FLAGS}

ARTEFACTS = artefact_schema.ARTEFACTS
NO_CAUSE = artefact_schema.NO_CAUSE
INJECTED_IN = truth_schema.INJECTED_IN
TRUTH_COLUMNS = truth_schema.TRUTH_COLUMNS

STAMPS = ArraySpec(
    "stamps",
    "float32",
    "ADU",
    "background-subtracted (stamp, channel, y, x); NaN without pixel; all channels on one zero point",
)

CANDIDATE_COLUMNS = (
    ArraySpec("frame", "int32", "", "row in the frames group"),
    ArraySpec(
        "realisation", "int16", "", "realisation of the injection; -1 for detections without injection"
    ),
    ArraySpec(
        "injection_id", "int64", "", "injection_id in the truth group, also of lost stars; -1 if not injected"
    ),
    ArraySpec("kind", "int8", "", "code of schema.KINDS, names in the attributes"),
    ArraySpec("label_true", "int8", "", "1 real, 0 bogus, -1 excluded; for evaluation only"),
    ArraySpec("label_true_source", "int8", "", "code of schema.LABEL_SOURCES"),
    ArraySpec(
        "label_given", "int8", "", "label that the survey would train on; -1 left out (ambiguous, lost)"
    ),
    ArraySpec("x_pix", "float64", "pixel", "0-based position in the science frame"),
    ArraySpec("y_pix", "float64", "pixel", "0-based position in the science frame"),
    ArraySpec("x0_pix", "int32", "pixel", "column of the stamp's first pixel in the science frame"),
    ArraySpec("y0_pix", "int32", "pixel", "row of the stamp's first pixel in the science frame"),
    ArraySpec("x_ref_pix", "float64", "pixel", "0-based position on the reference grid"),
    ArraySpec("y_ref_pix", "float64", "pixel", "0-based position on the reference grid"),
    ArraySpec(
        "footprint_half_ref_pix", "float32", "pixel", "half width of the stamp's box on the reference grid"
    ),
    ArraySpec("ra_deg", "float64", "deg", "ICRS right ascension; NaN without WCS"),
    ArraySpec("dec_deg", "float64", "deg", "ICRS declination; NaN without WCS"),
    ArraySpec("snr", "float32", "", "matched-filter signal-to-noise ratio of the detection"),
    ArraySpec("flux_adu", "float32", "ADU", "matched-filter flux of the detection"),
    ArraySpec("flux_err_adu", "float32", "ADU", "its standard error"),
    ArraySpec("position_err_pix", "float32", "pixel", "standard error of the position per axis"),
    ArraySpec("is_positive", "bool", "", "sign of the source in the difference"),
    ArraySpec("mag", "float32", "mag", "magnitude from flux_adu and the zero point; NaN if not positive"),
    ArraySpec("zero_point_mag", "float32", "mag", "magnitude of 1 ADU per exposure"),
    ArraySpec(
        "noise_adu", "float32", "ADU", "median standard deviation of the difference pixels in the stamp"
    ),
    ArraySpec("fwhm_pix", "float32", "pixel", "FWHM of the science PSF"),
    ArraySpec("host_offset_pix", "float32", "pixel", "distance to the chosen host; NaN without host"),
    ArraySpec(
        "shape_fwhm_pix",
        "float32",
        "pixel",
        "FWHM of the Gaussian with the source's second moments; NaN if not measurable",
    ),
    ArraySpec("elongation", "float32", "", "major over minor axis; NaN if not measurable"),
    ArraySpec("position_angle_deg", "float32", "deg", "of the major axis, 0 to 180, from +x towards +y"),
    ArraySpec("sharpness", "float32", "", "share of the central pixel in the flux over that of the PSF"),
    ArraySpec("psf_chi2", "float32", "", "reduced chi-square of the PSF fit within 1.5 FWHM"),
    ArraySpec(
        "negative_share",
        "float32",
        "",
        "share of the opposite sign in the significant flux within 2 FWHM; a dipole has 0.5",
    ),
    ArraySpec("n_bad", "int16", "", "pixels without value in the central 5 x 5"),
    ArraySpec(
        "reference_distance_pix", "float32", "pixel", "to the nearest source of the reference; NaN if none"
    ),
    ArraySpec("reference_flux_ratio", "float32", "", "absolute flux over that of this reference source"),
    ArraySpec(
        "bright_star_distance_pix",
        "float32",
        "pixel",
        "to the nearest reference star that is saturated or bright enough for NEAR_BRIGHT_STAR; NaN if none",
    ),
    ArraySpec("edge_distance_pix", "float32", "pixel", "to the nearest border of the frame"),
    ArraySpec("known_row", "int32", "", "row in the catalogue of known objects; -1 if none"),
    ArraySpec("cause", "int8", "", "code of schema.ARTEFACTS, from the emulator; -1 unknown or none"),
    ArraySpec("flags", "uint32", "", "bits of schema.CANDIDATE_FLAGS"),
    ArraySpec("sensor", "int32", "", "sensor number; 0 if unknown"),
    ArraySpec("block", "int32", "", "exposure block: exposures that follow each other in time"),
    ArraySpec("tile", "int32", "", "sky tile on the reference grid"),
    ArraySpec("group", "int32", "", "block x tile: the unit that splits keep together"),
    *PAIR_COLUMNS,
)

FRAME_COLUMNS = (
    ArraySpec("sensor", "int32", "", "sensor number; 0 if unknown"),
    ArraySpec("exposure", "int64", "", "exposure number: order in time within the run"),
    ArraySpec("block", "int32", "", "exposure block"),
    ArraySpec("ok", "bool", "", "False: the frame failed; the reason is in the attribute 'reasons'"),
    ArraySpec("gain_e_per_adu", "float32", "electron/ADU", "gain used"),
    ArraySpec("gain_err_e_per_adu", "float32", "electron/ADU", "its standard error if estimated; else 0"),
    ArraySpec(
        "read_noise_e", "float32", "electron", "read noise used; NaN if measured together with the sky"
    ),
    ArraySpec("saturation_adu", "float32", "ADU", "saturation level used; NaN if none was found"),
    ArraySpec("zero_point_mag", "float32", "mag", "magnitude of 1 ADU per exposure"),
    ArraySpec("zero_point_calibrated", "bool", "", "False: instrumental 25.0"),
    ArraySpec(
        "pixel_scale_arcsec", "float32", "arcsec", "side of a square of a pixel's area; NaN without WCS"
    ),
    ArraySpec("sky_adu", "float32", "ADU", "median background"),
    ArraySpec("noise_adu", "float32", "ADU", "median noise of the science frame per pixel"),
    ArraySpec("fwhm_pix", "float32", "pixel", "FWHM of the PSF at the centre"),
    *PSF_COLUMNS,
    ArraySpec(
        "registration_rms_pix", "float32", "pixel", "rms of star positions after registration, per axis"
    ),
    ArraySpec("convolved_science", "bool", "", "True: the science frame was convolved, not the reference"),
    ArraySpec("overlap", "float32", "", "share of the frame's valid pixels that have a difference"),
    ArraySpec("flux_scale", "float32", "", "kernel sum: science ADU per reference ADU"),
    ArraySpec(
        "flux_scale_spread", "float32", "", "largest minus smallest kernel sum in the frame, over the median"
    ),
    ArraySpec("flux_scale_over_photometry", "float32", "", "flux scale over the flux ratio of the stars"),
    ArraySpec("n_stamps", "int32", "", "stamps left in the kernel fit"),
    ArraySpec(
        "n_clipped", "int32", "", "stamps clipped from the kernel fit: variable, blended, badly fitted"
    ),
    ArraySpec("chi2_per_pixel", "float32", "", "reduced chi-square of the kernel fit"),
    ArraySpec("star_residual", "float32", "", "rms of what is left of bright stars, over that of the stars"),
    ArraySpec("star_shape_residual", "float32", "", "the same of what is no multiple of the star's light"),
    ArraySpec("star_chi2", "float32", "", "chi-square per pixel of what is left of bright stars, median"),
    ArraySpec("stars_missing", "float32", "", "share of the reference's bright stars that the frame lacks"),
    ArraySpec(
        "pixel_noise_ratio",
        "float32",
        "",
        "robust width of the difference over its propagated sigma, per pixel",
    ),
    ArraySpec(
        "snr_scale", "float32", "", "robust width of the S/N map over the expected, before it was set to 1"
    ),
    ArraySpec("n_asked", "int32", "", "injected stars asked for, all realisations"),
    ArraySpec("n_injected", "int32", "", "injected stars drawn"),
    ArraySpec("n_near_galaxy", "int32", "", "of these near galaxies"),
    ArraySpec("n_detected", "int32", "", "of these detected"),
    ArraySpec("n_bogus", "int32", "", "bogus stamps of this frame"),
    ArraySpec(
        "n_bogus_detected",
        "int32",
        "",
        "positive detections without injection, before stamps that overlap were dropped",
    ),
    ArraySpec("n_negative", "int32", "", "negative detections without injection"),
    ArraySpec("n_known", "int32", "", "positive detections at known objects"),
    *PAIR_FRAME_COLUMNS,
    *(
        ArraySpec(
            f"n_false_{name}",
            "int32",
            "",
            f"of n_bogus_detected, caused by {text}; -1 where the truth is not known",
        )
        for name, text in (
            *((artefact.name, f"the artefact {artefact.name}") for artefact in ARTEFACTS),
            ("unexplained", "nothing that the emulator put there"),
        )
    ),
    *CONDITION_COLUMNS,
)


def flag_table(flags: tuple[Flag, ...]) -> dict[str, int]:
    """Names and values of flags, as stored in array attributes."""
    return {flag.name: flag.value for flag in flags}


def label_of_kind(kind_code: int) -> tuple[int, int]:
    """True label and the code of its source for a kind code."""
    kind = KINDS[kind_code]
    return kind.label_true, LABEL_SOURCES[kind.label_true_source]


def lost_reason(flags: np.ndarray) -> np.ndarray:
    """Why stars were lost, from the flags of their stamps: places in `LOST_REASONS`, shape (n,)."""
    bits = np.asarray(flags).astype(np.int64)
    in_core = (bits & CANDIDATE_FLAG["SATURATED"]) != 0
    return np.select([(bits & CANDIDATE_FLAG["ON_MASK"]) != 0, in_core], [0, 1], 2)
