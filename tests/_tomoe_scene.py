"""One exposure of a small sensor with a Gaussian PSF, as the emulator's artefacts see it."""

import dataclasses

import numpy as np
from scipy.special import erf

from rbsim.emulate.tomoe.artefacts import load_artefacts
from rbsim.emulate.tomoe.scene import Scene


@dataclasses.dataclass(frozen=True)
class GaussianPsf:
    """Integrated over pixels; `stretch` widens x and narrows y, `change` is the width's, centre to right."""

    fwhm_pix: float = 3.0
    stretch: float = 1.0
    change: float = 0.0
    width: float = 400.0

    def stamp(self, x_pix, y_pix, *, half_pix):
        sigma = self.fwhm_pix / 2.3548 * (1 + self.change * np.sin(7 * x_pix / self.width))
        profiles = []
        for at, wide in ((y_pix, sigma / self.stretch), (x_pix, sigma * self.stretch)):
            edges = np.arange(2 * half_pix + 2) - half_pix - 0.5 - (at - round(at))
            profiles.append(np.diff(erf(edges / (np.sqrt(2) * wide))) / 2)
        return np.outer(*profiles)

    def draw(self, shape, x_pix, y_pix, flux_e):
        half = 16
        image = np.zeros((shape[0] + 2 * half, shape[1] + 2 * half))
        for x, y, flux in zip(x_pix, y_pix, flux_e, strict=True):
            column, row = round(x), round(y)
            if -half <= column < shape[1] + half and -half <= row < shape[0] + half:
                part = image[max(row, 0) : row + 2 * half + 1, max(column, 0) : column + 2 * half + 1]
                stamp = self.stamp(x, y, half_pix=half)
                part += flux * stamp[max(-row, 0) :, max(-column, 0) :][: part.shape[0], : part.shape[1]]
        return image[half:-half, half:-half]


def scene(**changes):
    """300 x 400 px, 17 frames, three stars and a galaxy."""
    base = Scene(
        shape=(300, 400),
        n_frames=17,
        frame_s=0.5,
        line_s=0.00041475,
        pixel_scale_arcsec=1.189,
        zero_point_e_mag=22.25,
        background_e=12.0,
        psf=GaussianPsf(),
        star_x_pix=np.array([100.0, 200.3, 320.0]),
        star_y_pix=np.array([50.0, 150.0, 250.6]),
        star_e=np.array([100.0, 5e3, 2e5]),
        star_colour_mag=np.array([0.0, 0.3, 0.0]),
        star_pm_pix=np.zeros(3),
        galaxy_x_pix=np.array([60.0]),
        galaxy_y_pix=np.array([220.0]),
        galaxy_e=np.array([2e4]),
        temperature_k=290.0,
    )
    return dataclasses.replace(base, **changes)


def only(name, factor=1.0):
    """Settings in which `name` alone is drawn, with its rate times `factor`."""
    drawn = ("hot_pixel", "flicker_pixel", "bad_column", "banding", "crosstalk", "cosmic_ray")
    drawn += ("satellite_glint", "satellite_streak", "moving_object", "ghost", "clouds")
    return load_artefacts({one: factor if one == name else 0.0 for one in drawn})


def image_of(layer, shape, frame):
    """Electrons that a layer adds to one single frame."""
    image = np.zeros(shape)
    for flash in layer.flashes:
        if flash.frame == frame:
            ny, nx = flash.electrons.shape
            image[flash.y0 : flash.y0 + ny, flash.x0 : flash.x0 + nx] += flash.electrons
    if layer.impacts is not None:
        here = np.isin(layer.impacts.frame, (frame, -1))
        np.add.at(image, (layer.impacts.y[here], layer.impacts.x[here]), layer.impacts.electrons[here])
    if layer.steady_e is not None:
        image += layer.steady_e
    return image
