"""What the parts of the emulator tell each other: sources of a field, one exposure of a sensor, layers.

Electrons are per single frame of 0.5 s, before vignetting is undone; positions are 0-based on the sensor.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Stars:
    """Stars of a field; arrays of shape (n,).

    Attributes
    ----------
    ra_deg, dec_deg : ndarray
        ICRS at the epoch of the night.
    mag : ndarray
        AB in Tomo-e's clear band.
    colour_mag : ndarray
        That minus the magnitude in PS1's r band, with the mean of the field taken out.
    pm_ra_mas_per_yr, pm_dec_mas_per_yr : ndarray
        Proper motion, in right ascension times cos(dec).
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    mag: np.ndarray
    colour_mag: np.ndarray
    pm_ra_mas_per_yr: np.ndarray
    pm_dec_mas_per_yr: np.ndarray


@dataclass(frozen=True, eq=False)
class Galaxies:
    """Sersic bulge and exponential disc; arrays of shape (n,).

    Attributes
    ----------
    ra_deg, dec_deg, mag, colour_mag : ndarray
        As of `Stars`.
    radius_arcsec : ndarray
        Half-light radius of the disc.
    bulge_fraction, bulge_sersic_n, bulge_radius_arcsec : ndarray
    shear1, shear2 : ndarray
        Ellipticity, in tangent-plane axes (east, north).
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    mag: np.ndarray
    colour_mag: np.ndarray
    radius_arcsec: np.ndarray
    bulge_fraction: np.ndarray
    bulge_sersic_n: np.ndarray
    bulge_radius_arcsec: np.ndarray
    shear1: np.ndarray
    shear2: np.ndarray


class Psf(Protocol):
    """True PSF of one exposure of a sensor; includes the response of the pixels."""

    @property
    def fwhm_pix(self) -> float:
        """At the middle of the sensor."""

    def stamp(self, x_pix: float, y_pix: float, *, half_pix: int) -> np.ndarray:
        """Unit flux, shape (2 half_pix + 1,) * 2 around the pixel nearest to the position."""

    def draw(
        self, shape: tuple[int, int], x_pix: np.ndarray, y_pix: np.ndarray, flux_e: np.ndarray
    ) -> np.ndarray:
        """Expected electrons of points, shape `shape`; what falls outside is lost."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One exposure of one sensor, as far as an artefact may depend on it.

    Attributes
    ----------
    shape : (ny, nx)
    n_frames : int
        Single frames that the stack holds.
    frame_s, line_s : float
        Time from one frame to the next, and from one line to the next (rolling shutter).
    pixel_scale_arcsec : float
    zero_point_e_mag : float
        Magnitude that gives one electron per single frame at the middle of the sensor.
    background_e : float
        Sky and dark current per pixel and single frame, its median.
    psf : Psf
    star_x_pix, star_y_pix, star_e : ndarray, shape (n,)
        Stars near and on the sensor, with their electrons per single frame.
    star_colour_mag, star_pm_pix : ndarray, shape (n,)
        Their colour, and displacement since the PS1 epoch.
    galaxy_x_pix, galaxy_y_pix, galaxy_e : ndarray, shape (m,)
    temperature_k : float
        Of the sensor.
    galaxy_colour_mag : ndarray, shape (m,), optional
        As of the stars.
    throughput : ndarray, shape (ny, nx), optional
        Light that arrives over that at the middle of the sensor; None: the same everywhere. Stars and
        galaxies have it already.
    star_change_e : ndarray, shape (n,), optional
        Of every star: its light now minus its mean, electrons per single frame. None: none varies.
    """

    shape: tuple[int, int]
    n_frames: int
    frame_s: float
    line_s: float
    pixel_scale_arcsec: float
    zero_point_e_mag: float
    background_e: float
    psf: Psf
    star_x_pix: np.ndarray
    star_y_pix: np.ndarray
    star_e: np.ndarray
    star_colour_mag: np.ndarray
    star_pm_pix: np.ndarray
    galaxy_x_pix: np.ndarray
    galaxy_y_pix: np.ndarray
    galaxy_e: np.ndarray
    temperature_k: float
    galaxy_colour_mag: np.ndarray | None = None
    throughput: np.ndarray | None = None
    star_change_e: np.ndarray | None = None

    def throughput_at(self, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        """Of the pixels nearest to positions, also from outside; of their shape."""
        if self.throughput is None:
            return np.ones(np.shape(x_pix))
        row = np.clip(np.rint(y_pix), 0, self.shape[0] - 1).astype(int)
        column = np.clip(np.rint(x_pix), 0, self.shape[1] - 1).astype(int)
        return np.asarray(self.throughput[row, column])

    def dimmed(self, flash: "Flash") -> "Flash":
        """What arrives of a flash whose box lies on the sensor."""
        if self.throughput is None:
            return flash
        ny, nx = flash.electrons.shape
        share = self.throughput[flash.y0 : flash.y0 + ny, flash.x0 : flash.x0 + nx]
        return replace(flash, electrons=flash.electrons * share)

    def behind(self, transparency: np.ndarray | None) -> "Scene":
        """The same through clouds: a factor on the light of everything in the sky, (ny, nx); None: none."""
        if transparency is None:
            return self
        clouds = replace(self, throughput=transparency)
        at_stars = clouds.throughput_at(self.star_x_pix, self.star_y_pix)
        return replace(
            self,
            star_e=self.star_e * at_stars,
            star_change_e=None if self.star_change_e is None else self.star_change_e * at_stars,
            galaxy_e=self.galaxy_e * clouds.throughput_at(self.galaxy_x_pix, self.galaxy_y_pix),
            throughput=transparency if self.throughput is None else self.throughput * transparency,
        )


@dataclass(frozen=True)
class Row:
    """Truth of one instance of an artefact.

    Attributes
    ----------
    artefact : str
        Its class.
    x_pix, y_pix : float
        Of a line: of the middle of its part on the sensor.
    strength : float
        What it means is said per class.
    frame : int
        Number of the single frame that has it; -1: all.
    length_pix, angle_deg : float
        Of lines (angle from +x towards +y); the length of a round area is its diameter; else NaN.
    """

    artefact: str
    x_pix: float
    y_pix: float
    strength: float
    frame: int = -1
    length_pix: float = math.nan
    angle_deg: float = math.nan


@dataclass(frozen=True, eq=False)
class Flash:
    """Light in one single frame: expected photo-electrons in a box whose first pixel is (y0, x0)."""

    frame: int
    y0: int
    x0: int
    electrons: np.ndarray


@dataclass(frozen=True, eq=False)
class Impacts:
    """Charge that has no photon noise of its own; arrays of shape (n,). A `frame` of -1 means every frame."""

    frame: np.ndarray
    y: np.ndarray
    x: np.ndarray
    electrons: np.ndarray


@dataclass(frozen=True, eq=False)
class Layer:
    """What one artefact class does to an exposure.

    Attributes
    ----------
    rows : tuple of Row
        One per instance.
    steady_e : ndarray, shape (ny, nx), optional
        Expected photo-electrons that every single frame gets.
    flashes : tuple of Flash
    impacts : Impacts, optional
    transparency : ndarray, shape (ny, nx), optional
        Factor, of mean 1, on the light of stars and galaxies (not on sky or dark current).
    """

    rows: tuple[Row, ...] = ()
    steady_e: np.ndarray | None = None
    flashes: tuple[Flash, ...] = ()
    impacts: Impacts | None = None
    transparency: np.ndarray | None = None
