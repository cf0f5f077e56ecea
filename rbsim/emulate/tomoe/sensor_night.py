"""What all exposures of a sensor share in a night, and when, where and in what weather each is taken."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from rbsim import seeding
from rbsim.emulate.tomoe import detector, pointing, transients
from rbsim.emulate.tomoe.artefacts import load_artefacts
from rbsim.emulate.tomoe.products import START_UTC, ExposureName, field_name
from rbsim.emulate.tomoe.settings import NightSettings
from rbsim.emulate.tomoe.sky import Sky, draw_sky
from rbsim.emulate.tomoe.weather import Weather, draw_weather
from rbsim.tomoe.sensors import PIXEL_SCALE_ARCSEC, SHAPE_PIX, Sensor

MARGIN_PIX = 60.0
"""Sky beyond the sensor and its dithers, for the wings of stars outside."""
N_DITHERS = 5
FIRST_EXPOSURE_ID = 860_262
EPOCH_IDS_BELOW = 1000
EPOCH_SPACING_DAYS = 20


@dataclass(frozen=True)
class Visit:
    """Which exposure: of the night itself, or the only one of an earlier night.

    Attributes
    ----------
    index : int
        Exposure from 0, or number of the earlier night.
    is_epoch : bool
        An earlier night, which has none of the night's transients.
    """

    index: int
    is_epoch: bool = False

    @property
    def key(self) -> int:
        """A different number for every visit."""
        return 2 * self.index + self.is_epoch


@dataclass(frozen=True, eq=False)
class SensorNight:
    """What all exposures of a sensor share.

    Attributes
    ----------
    settings : NightSettings
    seed : int
    sensor : Sensor
    shape : (ny, nx)
    field_ra_deg, field_dec_deg : float
        Pointing of the telescope without dither.
    wcs : WCS
        Of the sensor without dither and without error.
    sky : Sky
    chip : detector.Chip
    slow : transients.Slow
        Of the night.
    """

    settings: NightSettings
    seed: int
    sensor: Sensor
    shape: tuple[int, int]
    field_ra_deg: float
    field_dec_deg: float
    wcs: WCS
    sky: Sky
    chip: detector.Chip
    slow: transients.Slow

    def rng(self, part: str, *key: int) -> np.random.Generator:
        """Stream of a part of this sensor."""
        return stream(self.seed, part, self.sensor.det_id, *key)


def stream(seed: int, part: str, *key: int) -> np.random.Generator:
    """Stream of a part of the night."""
    return seeding.stream(seed, "emulate", seeding.key_of_name(f"tomoe {part}"), *key)


def field_centre(settings: NightSettings) -> tuple[float, float]:
    """Right ascension and declination of the field, in degrees."""
    condition = settings.condition
    place = SkyCoord(
        l=condition.galactic_longitude_deg, b=condition.galactic_latitude_deg, unit="deg", frame="galactic"
    ).icrs
    return float(place.ra.deg), float(place.dec.deg)


def make_sensor_night(
    settings: NightSettings, sensor: Sensor, *, seed: int, shape: tuple[int, int] = SHAPE_PIX
) -> SensorNight:
    """Draw all that the exposures of a sensor share.

    Parameters
    ----------
    settings : NightSettings
    sensor : Sensor
    seed : int
    shape : (ny, nx), optional
        Less than the whole sensor, around its middle, as of a partial readout.
    """
    ra, dec = field_centre(settings)
    wcs = pointing.sensor_wcs(sensor, ra, dec, shape)
    dither_pix = settings.mode.dither_arcsec / PIXEL_SCALE_ARCSEC
    strengths = load_artefacts(settings.condition.artefact_rates)
    sky = draw_sky(
        wcs,
        shape,
        1.5 * dither_pix + MARGIN_PIX,
        settings=settings.sky,
        condition=settings.condition,
        colours=strengths.colour_residual.rate_factor,
        motions=strengths.proper_motion.rate_factor,
        rng=stream(seed, "sky", sensor.det_id),
    )
    return SensorNight(
        settings=settings,
        seed=seed,
        sensor=sensor,
        shape=shape,
        field_ra_deg=ra,
        field_dec_deg=dec,
        wcs=wcs,
        sky=sky,
        chip=detector.make_chip(
            settings.camera,
            pointing.efficiency_map(sensor, shape),
            rng=stream(seed, "chip", sensor.det_id),
        ),
        slow=transients.draw_slow(sky, wcs, shape, settings, rng=stream(seed, "transients", sensor.det_id)),
    )


def weather_of(settings: NightSettings, visit: Visit, *, seed: int) -> Weather:
    """Weather of a visit, the same for all sensors."""
    n, night = (1, visit.index + 1) if visit.is_epoch else (visit.index + 1, 0)
    return draw_weather(settings.condition, n, rng=stream(seed, "weather", night))[-1]


def dither_of(settings: NightSettings, visit: Visit, *, seed: int) -> tuple[int, float, float]:
    """Number of the dither, and its offsets east and north in arcsec."""
    if not settings.mode.dither_arcsec:
        return 1, 0.0, 0.0
    number = visit.index % N_DITHERS
    east, north = stream(seed, "dither", number).uniform(-1, 1, 2) * settings.mode.dither_arcsec
    return number + 1, float(east), float(north)


def name_of(night: SensorNight, visit: Visit) -> ExposureName:
    """Name of a visit's files; known before it is emulated."""
    number, _, _ = dither_of(night.settings, visit, seed=night.seed)
    field = field_name(night.field_ra_deg, night.field_dec_deg)
    return ExposureName(
        sensor=night.sensor,
        exposure_id=FIRST_EXPOSURE_ID + (-EPOCH_IDS_BELOW - visit.index if visit.is_epoch else visit.index),
        start=start_of(night.settings, visit),
        object=f"{field}_dith{number}",
    )


def start_of(settings: NightSettings, visit: Visit) -> datetime:
    """Start of the first pixel, UTC."""
    if visit.is_epoch:
        return START_UTC - timedelta(days=EPOCH_SPACING_DAYS * (visit.index + 1))
    return START_UTC + timedelta(seconds=settings.mode.interval_s * visit.index)
