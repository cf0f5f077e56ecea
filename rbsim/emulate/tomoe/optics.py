"""True PSF of one exposure of a sensor: Kolmogorov x optics x motion x pixel, and drawing with it."""

import math
from dataclasses import dataclass
from typing import cast

import galsim
import numpy as np
from scipy import fft, ndimage

CELL_PIX = 340
"""One PSF per cell of about this size: across half a cell the FWHM changes by less than 1 %."""
OVERSAMPLING = 8
CORE_HALF_PIX = 16
"""Half width of the box that is drawn with the PSF of its cell; beyond, the round far profile serves."""
SMALL_HALF_PIX = 8
FAR_HALF_PIX = 150
FAINTEST_DRAWN_E = 0.05
"""Stamps reach to where the wings fall below this per pixel and frame, well under the noise of a stack."""
CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Blur:
    """What smears light at one place of the sensor, beyond a round Kolmogorov profile.

    Attributes
    ----------
    xx, xy, yy : float
        Covariance of a Gaussian in square pixels; optics, wind and drift add up in it.
    """

    xx: float
    xy: float
    yy: float

    def __add__(self, other: "Blur") -> "Blur":
        return Blur(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy)

    @classmethod
    def round(cls, fwhm_pix: float) -> "Blur":
        """Of a round Gaussian."""
        variance = (fwhm_pix / 2.3548) ** 2
        return cls(variance, 0.0, variance)

    @classmethod
    def along(cls, rms_pix: float, angle_deg: float) -> "Blur":
        """Of motion along a line."""
        x, y = rms_pix * math.cos(math.radians(angle_deg)), rms_pix * math.sin(math.radians(angle_deg))
        return cls(x * x, x * y, y * y)

    def gaussian(self) -> galsim.GSObject:
        """Unit flux; at least 0.01 px wide, so that a line is not infinitely thin."""
        values, vectors = np.linalg.eigh([[self.xx, self.xy], [self.xy, self.yy]])
        root = vectors @ np.diag(np.sqrt(np.maximum(values, 1e-4))) @ vectors.T
        unit = galsim.Gaussian(sigma=1.0).transform(*root.ravel())
        return unit / float(np.linalg.det(root))


@dataclass(frozen=True, eq=False)
class PsfField:
    """Implements `rbsim.emulate.tomoe.scene.Psf` by tables of oversampled PSFs; see `make_psf`.

    Attributes
    ----------
    shape : (ny, nx)
        Of the sensor.
    fwhm_pix : float
        At its middle, pixel included.
    tables : ndarray, shape (cells_y, cells_x, phases, phases, size, size), float32
        Unit PSFs on the pixels of the core box; phase p is a shift by p / OVERSAMPLING - 1/2 pixels.
    far : ndarray, shape (n,)
        Profile per pixel at radii 0, 1, 2, ... px beyond the core, of the round part.
    """

    shape: tuple[int, int]
    fwhm_pix: float
    tables: np.ndarray
    far: np.ndarray

    def stamp(self, x_pix: float, y_pix: float, *, half_pix: int) -> np.ndarray:
        """Unit flux, shape (2 half_pix + 1,) * 2 around the pixel nearest to the position."""
        size = 2 * half_pix + 1
        column, row = math.floor(x_pix + 0.5), math.floor(y_pix + 0.5)
        half = min(half_pix, CORE_HALF_PIX)
        core = self._patches(np.array([x_pix]), np.array([y_pix]), half)[0]
        if half == half_pix:
            return core.astype(float)
        y, x = np.mgrid[:size, :size] - half_pix
        image = self._far_at(np.hypot(x - (x_pix - column), y - (y_pix - row)))
        inner = slice(half_pix - half, half_pix + half + 1)
        image[inner, inner] = core
        return image

    def draw(
        self, shape: tuple[int, int], x_pix: np.ndarray, y_pix: np.ndarray, flux_e: np.ndarray
    ) -> np.ndarray:
        """Expected electrons of points, shape `shape`; what falls outside is lost.

        Notes
        -----
        Every point is a stamp of its cell's PSF, shifted by interpolation between phases of 1/8 px, which
        is within 0.3 % of the peak. Bright ones get far wings too.
        """
        pad = CORE_HALF_PIX + 1
        ny, nx = shape
        x, y, flux = (np.asarray(values, float) for values in (x_pix, y_pix, flux_e))
        peak = np.abs(flux) * float(self.tables[..., CORE_HALF_PIX, CORE_HALF_PIX].max())
        canvas = np.zeros((ny + 2 * pad) * (nx + 2 * pad))
        near = (x > -pad) & (x < nx - 1 + pad) & (y > -pad) & (y < ny - 1 + pad)
        is_small = (peak < FAINTEST_DRAWN_E / self._share_beyond(SMALL_HALF_PIX)) & near
        for rows, half in (
            (np.flatnonzero(is_small), SMALL_HALF_PIX),
            (np.flatnonzero(near & ~is_small), CORE_HALF_PIX),
        ):
            step = max(1, CHUNK_VALUES // (2 * half + 1) ** 2)
            for start in range(0, len(rows), step):
                some = rows[start : start + step]
                patches = self._patches(x[some], y[some], half) * flux[some, None, None]
                offset = np.arange(-half, half + 1) + pad
                row = np.floor(y[some] + 0.5).astype(int)[:, None] + offset
                column = np.floor(x[some] + 0.5).astype(int)[:, None] + offset
                inside_y, inside_x = (
                    (row >= 0) & (row < ny + 2 * pad),
                    (column >= 0) & (column < nx + 2 * pad),
                )
                keep = inside_y[:, :, None] & inside_x[:, None, :]
                index = row[:, :, None] * (nx + 2 * pad) + column[:, None, :]
                canvas += np.bincount(index[keep], patches[keep], minlength=canvas.size)
        image = canvas.reshape(ny + 2 * pad, nx + 2 * pad)[pad:-pad, pad:-pad].copy()
        self._add_far(image, x, y, flux)
        return image

    def draw_diffuse(
        self, shape: tuple[int, int], x_pix: np.ndarray, y_pix: np.ndarray, flux_e: np.ndarray
    ) -> np.ndarray:
        """The same for very many faint points, of which extended sources can be made.

        Notes
        -----
        Points are spread over a pixel grid by a cubic B-spline, and what that and the pixel grid do to
        them is divided out where the grid is convolved, cell by cell (smooth particle-mesh; Essmann et al.
        1995). For FWHM above 2.5 px the error is below 1e-3 of the peak, apart from the wings beyond
        `CORE_HALF_PIX`, which are lost.
        """
        pad = CORE_HALF_PIX + 3
        ny, nx = shape
        x, y, flux = (np.asarray(values, float) for values in (x_pix, y_pix, flux_e))
        image = np.zeros((ny + 2 * pad, nx + 2 * pad))
        rows, columns = self.tables.shape[:2]
        cell = self._cell(x, y)
        for number in np.unique(cell):
            row, column = divmod(int(number), columns)
            y0, y1 = row * ny // rows, (row + 1) * ny // rows
            x0, x1 = column * nx // columns, (column + 1) * nx // columns
            # The outermost cells take what lies a little outside.
            some = np.flatnonzero(cell == number)
            inside = (
                (x[some] > x0 - (pad - 3) - 0.5) & (x[some] < x1 + pad - 3.5)
                & (y[some] > y0 - (pad - 3) - 0.5) & (y[some] < y1 + pad - 3.5)
            )  # fmt: skip
            some = some[inside]
            size = tuple(fft.next_fast_len(n + 4 * pad, real=True) for n in (y1 - y0, x1 - x0))
            grid = _spread(size, x[some] - x0 + 2 * pad, y[some] - y0 + 2 * pad, flux[some])
            psf = np.zeros(size, np.float32)
            middle = OVERSAMPLING // 2
            psf[: 2 * CORE_HALF_PIX + 1, : 2 * CORE_HALF_PIX + 1] = self.tables[row, column, middle, middle]
            psf = np.roll(psf, (-CORE_HALF_PIX, -CORE_HALF_PIX), axis=(0, 1))
            transfer = fft.rfft2(psf) / (
                _spline_transfer(fft.fftfreq(size[0]))[:, None] * _spline_transfer(fft.rfftfreq(size[1]))
            )
            drawn = fft.irfft2(fft.rfft2(grid.astype(np.float32)) * transfer, s=size)
            box = drawn[pad : pad + y1 - y0 + 2 * pad, pad : pad + x1 - x0 + 2 * pad]
            image[y0 : y1 + 2 * pad, x0 : x1 + 2 * pad] += box
        return image[pad:-pad, pad:-pad].copy()

    def _cell(self, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        rows, columns = self.tables.shape[:2]
        ny, nx = self.shape
        row = np.clip(np.floor((y_pix + 0.5) * rows / ny), 0, rows - 1).astype(int)
        column = np.clip(np.floor((x_pix + 0.5) * columns / nx), 0, columns - 1).astype(int)
        return row * columns + column

    def _patches(self, x_pix: np.ndarray, y_pix: np.ndarray, half: int) -> np.ndarray:
        """Unit PSFs around the pixels nearest to positions, shape (n, 2 half + 1, 2 half + 1)."""
        columns = self.tables.shape[1]
        row, column = np.divmod(self._cell(x_pix, y_pix), columns)
        inner = slice(CORE_HALF_PIX - half, CORE_HALF_PIX + half + 1)
        tables = self.tables[..., inner, inner]
        phase_x = (x_pix - np.floor(x_pix + 0.5) + 0.5) * OVERSAMPLING
        phase_y = (y_pix - np.floor(y_pix + 0.5) + 0.5) * OVERSAMPLING
        px = np.minimum(phase_x.astype(int), OVERSAMPLING - 1)
        py = np.minimum(phase_y.astype(int), OVERSAMPLING - 1)
        wx, wy = (phase_x - px).astype(np.float32), (phase_y - py).astype(np.float32)
        patches = np.zeros((len(px), 2 * half + 1, 2 * half + 1), np.float32)
        for dy, weight_y in ((0, 1 - wy), (1, wy)):
            for dx, weight_x in ((0, 1 - wx), (1, wx)):
                patches += tables[row, column, py + dy, px + dx] * (weight_y * weight_x)[:, None, None]
        return patches

    def _far_at(self, radius_pix: np.ndarray) -> np.ndarray:
        return np.interp(radius_pix, np.arange(len(self.far)), self.far, right=0.0)

    def _share_beyond(self, radius_pix: int) -> float:
        """Highest value beyond a radius over that of the peak."""
        return float(self.far[radius_pix] / self.far[0])

    def _add_far(self, image: np.ndarray, x_pix: np.ndarray, y_pix: np.ndarray, flux_e: np.ndarray) -> None:
        """Wings outside the core box, in place."""
        ny, nx = image.shape
        for i in np.flatnonzero(np.abs(flux_e) * self.far[CORE_HALF_PIX] > FAINTEST_DRAWN_E):
            reach = int(np.argmax(self.far * abs(flux_e[i]) < FAINTEST_DRAWN_E)) or FAR_HALF_PIX
            column, row = math.floor(x_pix[i] + 0.5), math.floor(y_pix[i] + 0.5)
            y = np.arange(max(row - reach, 0), min(row + reach + 1, ny))
            x = np.arange(max(column - reach, 0), min(column + reach + 1, nx))
            if not (len(x) and len(y)):
                continue
            wing = self._far_at(np.hypot(*np.ix_(y - y_pix[i], x - x_pix[i]))) * flux_e[i]
            core = (np.abs(y - row) <= CORE_HALF_PIX)[:, None] & (np.abs(x - column) <= CORE_HALF_PIX)
            wing[core] = 0
            image[y[0] : y[-1] + 1, x[0] : x[-1] + 1] += wing


def make_psf(shape: tuple[int, int], *, kolmogorov_fwhm_pix: float, blurs: np.ndarray) -> PsfField:
    """Draw the PSF of every cell.

    Parameters
    ----------
    shape : (ny, nx)
    kolmogorov_fwhm_pix : float
        Of the atmosphere.
    blurs : ndarray of Blur, shape (cells_y, cells_x)
        What else smears light at the middle of each cell, see `cell_centres`.

    Returns
    -------
    PsfField

    Notes
    -----
    The telescope's own diffraction (0.1 arcsec) is taken as part of the optics' blur. GalSim folds what
    lies outside its Fourier grid; with its defaults that is 0.5 % of the flux.
    """
    size = 2 * CORE_HALF_PIX + 1
    n = (size + 1) * OVERSAMPLING + 1
    rows, columns = blurs.shape
    phases = OVERSAMPLING + 1
    tables = np.empty((rows, columns, phases, phases, size, size), np.float32)
    atmosphere = galsim.Kolmogorov(fwhm=kolmogorov_fwhm_pix)
    for row, column in np.ndindex(rows, columns):
        blur = cast(Blur, blurs[row, column])
        profile = galsim.Convolve([atmosphere, blur.gaussian(), galsim.Pixel(1.0)])
        fine = profile.drawImage(nx=n, ny=n, scale=1 / OVERSAMPLING, method="no_pixel", dtype=float).array
        fine = fine * OVERSAMPLING**2
        # Pixel i of phase p lies at i - half - (p / OVERSAMPLING - 1/2) from the source.
        start = n // 2 - CORE_HALF_PIX * OVERSAMPLING + OVERSAMPLING // 2
        for py, px in np.ndindex(phases, phases):
            tables[row, column, py, px] = fine[start - py :: OVERSAMPLING, start - px :: OVERSAMPLING][
                :size, :size
            ]
    middle = tables[rows // 2, columns // 2, OVERSAMPLING // 2, OVERSAMPLING // 2]
    middle_blur = blurs[rows // 2, columns // 2]
    fwhm = _fwhm_of(middle)
    return PsfField(shape, fwhm, tables, _far_profile(atmosphere, middle_blur))


def cell_centres(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the PSF cells, 0-based pixels: of the rows, and of the columns."""
    rows, columns = (max(1, round(n / CELL_PIX)) for n in shape)
    return (
        (np.arange(rows) + 0.5) * shape[0] / rows - 0.5,
        (np.arange(columns) + 0.5) * shape[1] / columns - 0.5,
    )


def _far_profile(atmosphere: galsim.GSObject, blur: Blur) -> np.ndarray:
    """Mean of the PSF over circles of radius 0, 1, 2, ... px."""
    variance = (blur.xx + blur.yy) / 2
    profile = galsim.Convolve([atmosphere, Blur(variance, 0, variance).gaussian(), galsim.Pixel(1.0)])
    n = 2 * FAR_HALF_PIX + 1
    image = profile.drawImage(nx=n, ny=n, scale=1.0, method="no_pixel", dtype=float).array
    return np.maximum(image[FAR_HALF_PIX, FAR_HALF_PIX:], 0)


def _fwhm_of(psf: np.ndarray) -> float:
    """From the area above half of the peak, of a PSF centred on a pixel."""
    fine = ndimage.zoom(psf.astype(float), 8, order=3)
    scale = (fine.shape[0] - 1) / (psf.shape[0] - 1)
    area = np.count_nonzero(fine > fine.max() / 2) / scale**2
    return 2 * math.sqrt(area / math.pi)


def _spline_transfer(frequency: np.ndarray) -> np.ndarray:
    """Fourier transform of the cubic B-spline."""
    return np.asarray(np.sinc(frequency) ** 4)


def _spread(size: tuple[int, ...], x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Points on a grid, each spread over 4 x 4 pixels by the cubic B-spline."""
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    weights_x, weights_y = _spline_weights(x - x0), _spline_weights(y - y0)
    index = (y0[:, None, None] + np.arange(-1, 3)[:, None]) * size[1] + x0[:, None, None] + np.arange(-1, 3)
    values = weights_y[:, :, None] * weights_x[:, None, :] * flux[:, None, None]
    return np.bincount(index.ravel(), values.ravel(), minlength=size[0] * size[1]).reshape(size)


def _spline_weights(t: np.ndarray) -> np.ndarray:
    """Cubic B-spline at -1 - t, -t, 1 - t and 2 - t, shape (n, 4)."""
    return np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    ) / 6  # fmt: skip
