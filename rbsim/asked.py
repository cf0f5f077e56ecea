"""The stars asked for in one realisation of a frame: where, how bright, of which kind, what was drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rbsim.lights import Lights
from rbsim.schema import INJECTED_IN, INJECTION_FLAG


@dataclass(frozen=True, eq=False)
class AskedStars:
    """Stars asked for, also those that cannot be drawn; all arrays of shape (n,).

    Attributes
    ----------
    x_pix, y_pix : 0-based, of a trail its middle; NaN if no place could be given.
    kind : codes of schema.KINDS.
    flux_adu : to add to the science frame, negative to take away; 0 if it could not be given.
    reference_flux_adu : the same for the reference, in ADU of the science frame.
    snr : matched-filter S/N of the difference of the two, before own photon noise, with its sign.
    injected_in : codes of schema.INJECTED_IN.
    trail_length_pix, trail_angle_deg : length 0 is a point; the angle is from +x towards +y.
    n_cube_frames : single frames of the cube in which it shines, 0 for all.
    delta_mag : near a galaxy: magnitude minus that of the host; variable: science minus reference; else NaN.
    star_flux_adu : flux that a variable star had before; NaN for other kinds.
    host_offset_pix, host_pa_deg, host_radius_pix : distance to the host, direction from it (from +x towards
        +y), its half-light radius; NaN without host.
    catalogue_id : injection_id of the user's catalogue, -1 without one.
    flag : bits of schema.INJECTION_FLAGS; rows with a flag are not drawn.
    """

    x_pix: np.ndarray
    y_pix: np.ndarray
    kind: np.ndarray
    flux_adu: np.ndarray
    reference_flux_adu: np.ndarray
    snr: np.ndarray
    injected_in: np.ndarray
    trail_length_pix: np.ndarray
    trail_angle_deg: np.ndarray
    n_cube_frames: np.ndarray
    delta_mag: np.ndarray
    star_flux_adu: np.ndarray
    host_offset_pix: np.ndarray
    host_pa_deg: np.ndarray
    host_radius_pix: np.ndarray
    catalogue_id: np.ndarray
    flag: np.ndarray

    def __len__(self) -> int:
        """Number of stars."""
        return len(self.x_pix)

    @property
    def net_flux_adu(self) -> np.ndarray:
        """Flux that shows in the difference, shape (n,)."""
        return self.flux_adu - self.reference_flux_adu

    @property
    def is_negative(self) -> np.ndarray:
        """Which show as negative sources, shape (n,), bool."""
        return np.asarray(self.net_flux_adu < 0)

    @property
    def is_plain(self) -> np.ndarray:
        """Points that shine through the whole exposure in the science frame alone, shape (n,), bool."""
        still = (self.trail_length_pix == 0) & (self.n_cube_frames == 0)
        return np.asarray(still & (self.reference_flux_adu == 0))


_DEFAULTS: dict[str, tuple[type, float]] = {
    "reference_flux_adu": (np.float64, 0.0),
    "injected_in": (np.int8, INJECTED_IN["science"]),
    "trail_length_pix": (np.float64, 0.0),
    "trail_angle_deg": (np.float64, 0.0),
    "n_cube_frames": (np.int16, 0),
    "delta_mag": (np.float64, np.nan),
    "star_flux_adu": (np.float64, np.nan),
    "host_offset_pix": (np.float64, np.nan),
    "host_pa_deg": (np.float64, np.nan),
    "host_radius_pix": (np.float64, np.nan),
    "catalogue_id": (np.int64, -1),
    "flag": (np.int32, 0),
}


def ask(
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    kind: int | np.ndarray,
    flux_adu: np.ndarray,
    snr: np.ndarray,
    **others: np.ndarray,
) -> AskedStars:
    """Stars of which only some columns are out of the ordinary; the others get what a plain star has.

    Parameters
    ----------
    x_pix, y_pix, flux_adu, snr : ndarray, shape (n,)
    kind : int or ndarray, shape (n,)
        Codes of schema.KINDS.
    **others : ndarray, shape (n,)
        Further attributes of `AskedStars`.
    """
    n = len(x_pix)
    columns: dict[str, np.ndarray] = {
        name: np.asarray(others[name], dtype) if name in others else np.full(n, value, dtype)
        for name, (dtype, value) in _DEFAULTS.items()
    }
    unknown = set(others) - set(_DEFAULTS)
    assert not unknown, unknown
    return AskedStars(
        x_pix=np.asarray(x_pix, float),
        y_pix=np.asarray(y_pix, float),
        kind=np.full(n, kind, np.int8),
        flux_adu=np.asarray(flux_adu, float),
        snr=np.asarray(snr, float),
        **columns,
    )


def joined(parts: Sequence[AskedStars]) -> AskedStars:
    """All stars of several lists, in order."""
    return AskedStars(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(AskedStars)
        }
    )


def dimmed(
    asked: AskedStars, transparency: float, *, flux_error_adu: np.ndarray, is_lost: np.ndarray
) -> AskedStars:
    """The same stars in a degraded version of the frame that they were drawn for.

    Parameters
    ----------
    asked : AskedStars
    transparency : float
        Share of the light of sources that comes through; magnitudes stay, if the zero point follows.
    flux_error_adu : ndarray, shape (n,)
        Error of the matched-filter flux at their places there.
    is_lost : ndarray of bool, shape (n,)
        Where the degraded frame has no value: flagged ON_MASK unless the row has a flag.
    """
    new = (asked.flag == 0) & (is_lost | ~(flux_error_adu > 0) | ~np.isfinite(flux_error_adu))
    usable = np.isfinite(flux_error_adu) & (flux_error_adu > 0)
    net = transparency * asked.net_flux_adu
    return replace(
        asked,
        flux_adu=transparency * asked.flux_adu,
        reference_flux_adu=transparency * asked.reference_flux_adu,
        star_flux_adu=transparency * asked.star_flux_adu,
        snr=np.divide(net, flux_error_adu, out=np.zeros(len(asked)), where=usable),
        flag=asked.flag | np.where(new, INJECTION_FLAG["ON_MASK"], 0).astype(np.int32),
    )


def lights_of(asked: AskedStars) -> Lights:
    """What of the stars asked for `rbsim.inject` needs to know."""
    return Lights(**{field.name: getattr(asked, field.name) for field in fields(Lights)})
