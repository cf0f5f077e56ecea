"""Light in single frames of a cube: exposed there, then averaged by the cube's own rule."""

from dataclasses import dataclass, replace

import numpy as np

from rbsim.cube import Cube, mean_of, read_box
from rbsim.electrons import add_noise, expose


@dataclass(frozen=True, eq=False)
class Flash:
    """What light in single frames does to their mean; pixel numbers are those of the frame, row by row.

    Attributes
    ----------
    pixels : ndarray, shape (n,), int
    added_adu : ndarray, shape (n,), float32
        To the mean: nothing where the clipping takes the light for an outlier.
    saturated, one_frame : ndarray, shape (m,), int
        Pixels that reached saturation in a frame; that a single frame stands out of.
    """

    pixels: np.ndarray
    added_adu: np.ndarray
    saturated: np.ndarray
    one_frame: np.ndarray


def flash(
    cube: Cube,
    expected: np.ndarray,
    corner_x: int,
    corner_y: int,
    n_lit: int,
    *,
    sky_adu: np.ndarray,
    gain_e_per_adu: float,
    rng: np.random.Generator,
) -> Flash:
    """Expose consecutive frames of a cube, from a random one on, to light, and take the mean again.

    Every frame gets photon noise, response, full well and rounding of its own. Only the light's box is
    read. What other lights did to the same box is not seen; what they add is added.

    Parameters
    ----------
    cube : Cube
    expected : ndarray, shape (height, width)
        Light in ADU of the mean of all frames, were nothing clipped: each of the lit frames gets
        ``n_frames / n_lit`` times as much. 0 outside the frame.
    corner_x, corner_y : int
        Frame pixel of its first pixel.
    n_lit : int
        1 to the number of frames.
    sky_adu : ndarray, shape (ny, nx)
        Of the mean.
    gain_e_per_adu : float
        Of a single frame.
    rng : numpy.random.Generator
    """
    ny, nx = cube.shape
    height, width = expected.shape
    # One pixel more around, which the clipping looks at.
    y = slice(max(corner_y - 1, 0), min(corner_y + height + 1, ny))
    x = slice(max(corner_x - 1, 0), min(corner_x + width + 1, nx))
    light = np.zeros((y.stop - y.start, x.stop - x.start))
    inner_y, inner_x = (
        slice(max(corner_y, 0), min(corner_y + height, ny)),
        slice(max(corner_x, 0), min(corner_x + width, nx)),
    )
    inner = (
        slice(inner_y.start - y.start, inner_y.stop - y.start),
        slice(inner_x.start - x.start, inner_x.stop - x.start),
    )
    light[inner] = expected[
        inner_y.start - corner_y : inner_y.stop - corner_y, inner_x.start - corner_x : inner_x.stop - corner_x
    ]
    light *= cube.n_frames / n_lit
    planes = read_box(cube, y, x)
    before, alone_before = mean_of(cube, planes)
    detector = replace(cube.detector, gain_e_per_adu=gain_e_per_adu)
    sky, sigma = sky_adu[y, x].astype(float), np.full(light.shape, cube.sigma_adu)
    full = np.zeros(light.shape, bool)
    first = int(rng.integers(cube.n_frames - n_lit + 1))
    for plane in planes[first : first + n_lit]:
        noisy = add_noise(light, gain_e_per_adu, rng=rng)
        lit = (noisy != 0) & np.isfinite(plane)
        added, _, clipped = expose(
            noisy[lit], plane[lit].astype(float), sky[lit], sigma[lit], detector, rng=rng
        )
        plane[lit] += added.astype(np.float32)
        full[lit] |= clipped
    after, alone = mean_of(cube, planes)
    change = np.where(np.isfinite(before) & np.isfinite(after), after - before, 0)[inner]
    numbers = (np.arange(inner_y.start, inner_y.stop)[:, None] * nx) + np.arange(inner_x.start, inner_x.stop)
    touched = change != 0
    return Flash(
        pixels=numbers[touched],
        added_adu=change[touched].astype(np.float32),
        saturated=numbers[full[inner]],
        one_frame=numbers[(alone & ~alone_before)[inner]],
    )
