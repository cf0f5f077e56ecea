"""The classes of artefacts that an emulated night has, and how a detection is put down to one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Artefact:
    """A class of artefact of the emulator, and how far from it a detection may lie that it caused.

    Attributes
    ----------
    code, name
        As in the column ``cause`` and in artefacts.ecsv.
    reach_pix, reach_fwhm : float
        The radius is their sum, the second in units of the PSF's FWHM; for lines the distance from the
        line, for areas that from the edge of the disc.
    is_signed : bool
        The sign of its strength is that of the detection.
    description : str
    extent : str
        Of one instance: ``point or line`` (a line if it has a length); ``area``, a disc whose diameter is
        the length, or without one whose pixels the strength counts; ``frame``, everywhere, where the
        strength is the S/N up to which a detection without any other cause is put down to it.
    is_last : bool
        Wide: the cause only of what nothing else explains.
    other_survey : bool
        Only against a reference of another band and of years ago, which Tomo-e's own is not.
    """

    code: int
    name: str
    reach_pix: float
    reach_fwhm: float
    is_signed: bool
    description: str
    extent: str = "point or line"
    is_last: bool = False
    other_survey: bool = False


ARTEFACTS = (
    Artefact(0, "hot_pixel", 1.0, 0.5, True, "pixel that leaks charge in every exposure"),
    Artefact(1, "flicker_pixel", 1.0, 0.5, True, "pixel that jumps between exposures (telegraph noise)"),
    Artefact(2, "cosmic_ray", 3.0, 0.5, True, "track of charge up to 5 px long"),
    Artefact(3, "bad_column", 1.0, 0.5, True, "segment of a column with an offset"),
    Artefact(4, "satellite_streak", 0.0, 1.0, True, "line as wide as the PSF"),
    Artefact(
        5,
        "colour_residual",
        0.0,
        1.5,
        True,
        "star brighter or fainter than in the reference",
        other_survey=True,
    ),
    Artefact(6, "dipole", 0.0, 1.5, False, "star that has moved since the reference"),
    Artefact(7, "mask_in_reference", 1.0, 1.0, False, "hole or filled hole in the reference", "area"),
    Artefact(8, "satellite_glint", 0.0, 1.0, True, "star in one single frame of a stack"),
    Artefact(9, "moving_object", 0.0, 1.0, True, "trail of a near-Earth object"),
    Artefact(10, "ghost", 0.0, 1.0, False, "out-of-focus reflection of a bright star", "area", is_last=True),
    Artefact(11, "banding", 1.0, 0.5, False, "row with a wrong bias"),
    Artefact(12, "clouds", 0.0, 1.5, True, "star dimmed otherwise than its neighbours"),
    Artefact(13, "crosstalk", 0.0, 1.5, True, "echo of a bright star in another readout channel"),
    Artefact(14, "psf_mismatch", 6.0, 1.5, False, "star whose PSF the kernel cannot reach", is_last=True),
    Artefact(15, "saturated_core", 1.0, 0.5, False, "star that fills the well in every single frame", "area"),
    Artefact(
        16, "mask_in_subtraction", 1.0, 0.5, False, "rim of a hole in the difference", "area", is_last=True
    ),
    Artefact(17, "low_snr", 0.0, 0.0, False, "peak of the noise", "frame"),
    Artefact(
        18,
        "proper_motion",
        0.0,
        1.5,
        False,
        "star that has moved since the epoch of Pan-STARRS1",
        other_survey=True,
    ),
    Artefact(19, "variable", 0.0, 1.0, True, "star brighter or fainter than in the reference"),
    Artefact(20, "large_galaxy", 1.0, 2.0, False, "nucleus or disc of a galaxy"),
    Artefact(21, "tracking_error", 0.0, 1.5, False, "star stretched by wind or tracking"),
    Artefact(22, "image_edge", 8.0, 0.0, False, "border of the frame", is_last=True),
)
NO_CAUSE = -1
"""In the column ``cause``: none known, or not looked for."""
