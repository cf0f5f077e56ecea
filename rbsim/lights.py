"""What is to shine in a frame, apart from who asked for it."""

from dataclasses import dataclass, fields, replace

import numpy as np

from rbsim.errors import InputError


@dataclass(frozen=True, eq=False)
class Lights:
    """Lights to add to a frame and its reference, or to take away; all arrays of shape (n,).

    Attributes
    ----------
    x_pix, y_pix : 0-based; of a trail, its middle.
    flux_adu : expected flux in the science frame; negative takes light away, 0 changes nothing, bit for bit.
    reference_flux_adu : the same in the reference, in ADU of the science frame.
    trail_length_pix : 0 is a point.
    trail_angle_deg : from +x towards +y.
    n_cube_frames : 0 shines through the whole exposure, k in k successive frames of the cube, with
        `flux_adu` in the mean of all frames if nothing is clipped.
    flag : bits of schema.INJECTION_FLAGS; rows with a flag are not drawn.
    """

    x_pix: np.ndarray
    y_pix: np.ndarray
    flux_adu: np.ndarray
    reference_flux_adu: np.ndarray
    trail_length_pix: np.ndarray
    trail_angle_deg: np.ndarray
    n_cube_frames: np.ndarray
    flag: np.ndarray

    def __len__(self) -> int:
        """Number of lights."""
        return len(self.x_pix)

    def select(self, rows: np.ndarray) -> "Lights":
        """Some of the lights, by a mask or index array."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def point_lights(
    x_pix: np.ndarray, y_pix: np.ndarray, flux_adu: np.ndarray, flag: np.ndarray | None = None
) -> Lights:
    """Points of light in the science frame alone, through the whole exposure."""
    n = len(x_pix)
    zero = np.zeros(n)
    return Lights(
        x_pix=x_pix,
        y_pix=y_pix,
        flux_adu=flux_adu,
        reference_flux_adu=zero,
        trail_length_pix=zero,
        trail_angle_deg=zero,
        n_cube_frames=np.zeros(n, np.int32),
        flag=np.zeros(n, np.int32) if flag is None else flag,
    )


def check_finite(lights: Lights) -> None:
    """Refuse lights without a flag that have no place, flux or length.

    Raises
    ------
    InputError
        With the first row and value.
    """
    rows = lights.flag == 0
    for name in ("x_pix", "y_pix", "flux_adu", "reference_flux_adu", "trail_length_pix", "trail_angle_deg"):
        values = getattr(lights, name)
        wrong = rows & ~np.isfinite(values)
        if name == "trail_length_pix":
            wrong |= rows & (values < 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"light {row}: {name} is {values[row]}; give a finite number (lengths 0 or more) or a flag"
            )
    brief = rows & (lights.n_cube_frames != 0) & ((lights.flux_adu < 0) | (lights.n_cube_frames < 0))
    if brief.any():
        row = int(np.argmax(brief))
        raise InputError(
            f"light {row}: {lights.flux_adu[row]} ADU in {lights.n_cube_frames[row]} single frames; light is"
            " taken away from whole exposures only"
        )
