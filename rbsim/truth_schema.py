"""Columns of the truth, part of `rbsim.schema`: what was asked of each star, and what became of it."""

from dataclasses import dataclass

INJECTED_IN = {"science": 0, "reference": 1, "both": 2}
"""Codes of the image that an injected star was put into."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store: what it holds and how it is laid out."""

    name: str
    dtype: str
    unit: str
    description: str


TRUTH_COLUMNS = (
    ArraySpec(
        "injection_id", "int64", "", "unique within the store; -1 for detections that an injection caused"
    ),
    ArraySpec("frame", "int32", "", "row in the frames group"),
    ArraySpec("realisation", "int16", "", "realisation number from 0"),
    ArraySpec("kind", "int8", "", "code of schema.KINDS; -1 for detections that an injection caused"),
    ArraySpec("x_pix", "float64", "pixel", "0-based position in the science frame"),
    ArraySpec("y_pix", "float64", "pixel", "0-based position in the science frame"),
    ArraySpec("x_ref_pix", "float64", "pixel", "0-based position on the reference grid"),
    ArraySpec("y_ref_pix", "float64", "pixel", "0-based position on the reference grid"),
    ArraySpec("catalogue_id", "int64", "", "injection_id of the user's catalogue; -1 without one"),
    ArraySpec("flux_adu", "float64", "ADU", "flux added to the science frame; negative: taken away"),
    ArraySpec(
        "reference_flux_adu", "float64", "ADU", "the same for the reference, in ADU of the science frame"
    ),
    ArraySpec("injected_in", "int8", "", "code of schema.INJECTED_IN"),
    ArraySpec("mag", "float64", "mag", "magnitude of flux_adu minus reference_flux_adu; NaN if not positive"),
    ArraySpec(
        "snr",
        "float32",
        "",
        "matched-filter S/N that flux_adu minus reference_flux_adu has at this position, as a point and "
        "before its Poisson noise",
    ),
    ArraySpec(
        "snr_expected",
        "float32",
        "",
        "S/N to expect of its detection, own photon noise included; NaN if unknown, and for trails, lights "
        "in single frames, and whatever changes the reference",
    ),
    ArraySpec("trail_length_pix", "float32", "pixel", "length of its trail; 0 is a point"),
    ArraySpec("trail_angle_deg", "float32", "deg", "direction of the trail, from +x towards +y"),
    ArraySpec("n_cube_frames", "int16", "", "single frames of the cube in which it shines; 0: all the time"),
    ArraySpec(
        "delta_mag",
        "float32",
        "mag",
        "near a galaxy: magnitude minus that of the host; variable: science minus reference; else NaN",
    ),
    ArraySpec("star_flux_adu", "float32", "ADU", "flux that a variable star had before; NaN for other kinds"),
    ArraySpec("host_offset_pix", "float32", "pixel", "distance to the chosen host; NaN without host"),
    ArraySpec("host_pa_deg", "float32", "deg", "direction from host to star, from +x towards +y; else NaN"),
    ArraySpec("host_radius_pix", "float32", "pixel", "half-light radius of that host; NaN without host"),
    ArraySpec(
        "host_sb_mag_per_pix2",
        "float32",
        "mag/pixel2",
        "surface brightness of the reference here, averaged with the PSF; NaN where it is below 3 sigma",
    ),
    ArraySpec("injection_flag", "int32", "", "bits of schema.INJECTION_FLAGS"),
    ArraySpec("injected", "bool", "", "the star was drawn into the frame"),
    ArraySpec("detected", "bool", "", "a detection matches it"),
    ArraySpec("ambiguous", "bool", "", "the match is not unique, or something was detected there before"),
    ArraySpec(
        "separation_pix", "float32", "pixel", "distance between truth and detection; NaN if not detected"
    ),
    ArraySpec(
        "stamp",
        "int64",
        "",
        "row of the stamp of its detection; -1 if there is none (that of a lost star has its injection_id)",
    ),
)
