"""Small emulated Tomo-e exposures, shared by their tests."""

import dataclasses

from rbsim.emulate.tomoe import exposure
from rbsim.emulate.tomoe.sensor_night import make_sensor_night
from rbsim.emulate.tomoe.settings import load_settings
from rbsim.tomoe.sensors import read_sensors

SHAPE = (180, 260)
SENSOR = read_sensors()[111]
DARK = load_settings("all-sky", "dark")


def changed(settings, **parts):
    """Settings with some keys of their parts replaced."""
    return dataclasses.replace(
        settings,
        **{part: dataclasses.replace(getattr(settings, part), **keys) for part, keys in parts.items()},
    )


STEADY = changed(
    DARK,
    condition={
        "fwhm_scatter": 0.0,
        "extinction_scatter_mag": 0.0,
        "sky_scatter_mag": 0.0,
        "temperature_scatter_k": 0.0,
        "shake_probability": 0.0,
        "drift_pix_per_s": 0.0,
    },
)
"""The dark night, with the same weather in every exposure."""


def small_night(settings=DARK, *, sensor=SENSOR, seed=5, shape=SHAPE):
    return make_sensor_night(settings, sensor, seed=seed, shape=shape)


def without_artefacts(monkeypatch):
    monkeypatch.setattr(exposure.artefacts, "all_layers", lambda *_args, **_kwargs: [])
