"""Light that moves while the rolling shutter runs: which single frame gets which part of the trail."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import fft

from rbsim.emulate.tomoe.scene import Flash, Psf, Row, Scene

GAP_S = 96e-6
"""Between the end of one exposure of a line and the start of the next (tomoe-facts, section 1)."""
PIECE_PIX = 96.0
"""A trail is drawn in pieces of this length, each with the PSF of its middle."""
HALF_PIX = 16
LEAST_SLOPE = 1e-3
"""A body that keeps pace with the shutter would stay in one frame for ever."""


@dataclass(frozen=True)
class Motion:
    """A body on a straight line at constant speed, perhaps tumbling.

    Attributes
    ----------
    x_pix, y_pix : float
        0-based, at time 0: the start of the first frame's first line.
    vx_pix_per_s, vy_pix_per_s : float
    e_per_s : float
        Mean light.
    depth : float
        Its brightness falls to 1 - depth of the brightest: 0 is steady.
    period_s : float
        Of that.
    phase : float
        0 to 1.
    """

    x_pix: float
    y_pix: float
    vx_pix_per_s: float
    vy_pix_per_s: float
    e_per_s: float
    depth: float = 0.0
    period_s: float = 1.0
    phase: float = 0.0

    @property
    def speed_pix_per_s(self) -> float:
        """Along its line."""
        return math.hypot(self.vx_pix_per_s, self.vy_pix_per_s)

    def at(self, time_s: float) -> tuple[float, float]:
        """Position x, y."""
        return self.x_pix + self.vx_pix_per_s * time_s, self.y_pix + self.vy_pix_per_s * time_s


def exposed(motion: Motion, scene: Scene) -> list[tuple[float, float]]:
    """Start and end of the light that each single frame gets, seconds, in the order of the frames.

    Line y of frame k is exposed from ``k * frame_s + y * line_s`` for `frame_s` less `GAP_S`. So a body
    that moves along the shutter's way stays longer in a frame, by ``1 / (1 - vy * line_s)``, and its
    trail is longer by that.
    """
    slope = 1 - motion.vy_pix_per_s * scene.line_s
    if abs(slope) < LEAST_SLOPE:
        slope = math.copysign(LEAST_SLOPE, slope)
    start = motion.y_pix * scene.line_s
    times = []
    for frame in range(scene.n_frames):
        ends = (frame * scene.frame_s + start) / slope, ((frame + 1) * scene.frame_s - GAP_S + start) / slope
        times.append((min(ends), max(ends)))
    return times


def trail(motion: Motion, scene: Scene) -> tuple[list[Flash], list[tuple[int, float, float]]]:
    """Draw a moving body.

    Parameters
    ----------
    motion : Motion
    scene : Scene

    Returns
    -------
    flashes : list of Flash
        What each single frame gets, in pieces.
    parts : list of (frame, start_s, end_s)
        When it is on the sensor, per single frame.
    """
    flashes, parts = [], []
    for frame, (start, end) in enumerate(exposed(motion, scene)):
        wide = _inside(motion, scene.shape, start, end, margin_pix=HALF_PIX)
        if wide is None:
            continue
        on = _inside(motion, scene.shape, start, end, margin_pix=0.5)
        if on is not None:
            parts.append((frame, *on))
        n_pieces = max(math.ceil((wide[1] - wide[0]) * motion.speed_pix_per_s / PIECE_PIX), 1)
        times = np.linspace(*wide, n_pieces + 1)
        flashes += [
            scene.dimmed(flash)
            for a, b in itertools.pairwise(times)
            if (flash := _piece(motion, scene.psf, scene.shape, frame, float(a), float(b))) is not None
        ]
    return flashes, parts


def row_of(
    artefact: str, motion: Motion, start_s: float, end_s: float, *, strength: float, frame: int
) -> Row:
    """Truth of a trail between two times."""
    x, y = motion.at((start_s + end_s) / 2)
    return Row(
        artefact,
        x,
        y,
        strength,
        frame=frame,
        length_pix=motion.speed_pix_per_s * (end_s - start_s),
        angle_deg=math.degrees(math.atan2(motion.vy_pix_per_s, motion.vx_pix_per_s)) % 180,
    )


def _inside(
    motion: Motion, shape: tuple[int, int], start_s: float, end_s: float, *, margin_pix: float
) -> tuple[float, float] | None:
    """The part of a time span in which the body is within `margin_pix` of the sensor's pixel centres."""
    low, high = start_s, end_s
    for at, speed, size in (
        (motion.x_pix, motion.vx_pix_per_s, shape[1]),
        (motion.y_pix, motion.vy_pix_per_s, shape[0]),
    ):
        if speed == 0:
            if not -margin_pix <= at <= size - 1 + margin_pix:
                return None
            continue
        enters, leaves = sorted(((-margin_pix - at) / speed, (size - 1 + margin_pix - at) / speed))
        low, high = max(low, enters), min(high, leaves)
    return (low, high) if low < high else None


def _piece(
    motion: Motion, psf: Psf, shape: tuple[int, int], frame: int, start_s: float, end_s: float
) -> Flash | None:
    """The PSF smeared along a piece, exact for a band-limited PSF: by the Fourier transform of a line."""
    ends = np.array([motion.at(start_s), motion.at(end_s)])
    first = np.floor(ends.min(axis=0)).astype(int) - HALF_PIX
    last = np.ceil(ends.max(axis=0)).astype(int) + HALF_PIX
    size_x, size_y = (int(fft.next_fast_len(int(n))) for n in last - first + 1)
    middle = ends.mean(axis=0)
    near = np.clip(np.rint(middle), 0, [shape[1] - 1, shape[0] - 1])
    unit = psf.stamp(float(near[0]), float(near[1]), half_pix=HALF_PIX)
    fy, fx = np.meshgrid(fft.fftfreq(size_y), fft.rfftfreq(size_x), indexing="ij")
    shift = middle - first - HALF_PIX
    (dx, dy), cycles = ends[1] - ends[0], (end_s - start_s) / motion.period_s
    turn = 2 * np.pi * ((start_s + end_s) / 2 / motion.period_s + motion.phase)
    along = fx * dx + fy * dy
    pulse = np.exp(1j * turn) * np.sinc(along - cycles) + np.exp(-1j * turn) * np.sinc(along + cycles)
    line = np.sinc(along) + motion.depth / (2 - motion.depth) * pulse / 2
    transform = fft.rfft2(unit, (size_y, size_x)) * line
    transform *= np.exp(-2j * np.pi * (fx * shift[0] + fy * shift[1]))
    image = motion.e_per_s * (end_s - start_s) * fft.irfft2(transform, (size_y, size_x))
    x0, y0 = int(first[0]), int(first[1])
    rows = slice(max(-y0, 0), min(int(last[1]) - y0 + 1, shape[0] - y0))
    columns = slice(max(-x0, 0), min(int(last[0]) - x0 + 1, shape[1] - x0))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return None
    # The transform rings by some thousandths of the peak; light is not negative.
    return Flash(frame, y0 + rows.start, x0 + columns.start, np.maximum(image[rows, columns], 0))
