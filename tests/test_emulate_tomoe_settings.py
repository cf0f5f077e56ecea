"""Conditions and instrument of emulated Tomo-e nights: complete, checked, not for real frames."""

import dataclasses
import re

import pytest

import catalogs
from rbsim.condition import load_condition
from rbsim.emulate.tomoe import settings
from rbsim.emulate.tomoe.settings import Camera, TomoeCondition, load_settings, load_tomoe_condition
from rbsim.errors import InputError

NAMES = [
    "dark",
    "bright-moon",
    "cirrus",
    "poor-seeing",
    "windy",
    "warm-sensor",
    "crowded",
    "field-edge",
    "deployed-week",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["all-sky", "high-cadence"])
def test_every_condition_is_a_full_set_of_parameters(name, mode):
    made = load_settings(mode, name)
    assert made.condition.name == name
    table = catalogs.read_toml("conditions.toml")["tomoe"][name]
    assert {"name", *table} == {field.name for field in dataclasses.fields(TomoeCondition)}


def test_each_condition_is_worse_than_the_dark_one_in_what_it_is_named_after():
    dark, *others = (load_tomoe_condition(name) for name in NAMES)
    moon, cirrus, seeing, windy, warm, crowded, edge, week = others
    assert dataclasses.replace(week, name=dark.name, description=dark.description, artefact_rates={}) == dark
    assert week.artefact_rates
    assert min(week.artefact_rates.values()) > 1
    assert moon.sky_mag_per_arcsec2 < dark.sky_mag_per_arcsec2 - 1.5
    assert cirrus.extinction_mag > 0.2
    assert cirrus.artefact_rates["clouds"] > 1
    assert 5 < seeing.fwhm_arcsec < 8
    assert windy.shake_probability > 0.5
    assert windy.shake_rms_pix > 1
    assert warm.temperature_k == 305
    assert abs(crowded.galactic_latitude_deg) < abs(dark.galactic_latitude_deg) / 2
    assert edge.field_low_deg > 2  # where vignetting begins


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match=re.escape(f"'foggy' is not known; choose one of {', '.join(NAMES)}")
    ):
        load_settings("all-sky", "foggy")
    with pytest.raises(InputError, match="mode 'deep' is not known; choose one of all-sky, high-cadence"):
        load_settings("deep", "dark")


def test_conditions_of_emulated_nights_are_not_for_real_frames():
    with pytest.raises(InputError, match="'tomoe' is not known") as caught:
        load_condition("tomoe")
    assert "tomoe" not in str(caught.value).partition("has")[2]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fwhm_arcsec", "wide", "fwhm_arcsec is 'wide'; it must be of type float"),
        ("seeing", 3.0, "unknown keys seeing"),
        ("galactic_latitude_deg", 5.0, "allowed: 15 to 90"),
        ("artefact_rates", {"clouds": -1.0}, "artefact_rates"),
        ("artefact_rates", {"clouds": "many"}, "must be of type dict"),
        ("field_high_deg", 0.0, "more than field_low_deg"),
    ],
)
def test_wrong_tables_are_refused_by_key(monkeypatch, key, value, message):
    tables = catalogs.read_toml("conditions.toml")
    tables["tomoe"]["dark"][key] = value
    monkeypatch.setattr(settings.catalogs, "read_toml", lambda _: tables)
    with pytest.raises(InputError, match=re.escape(message)):
        load_tomoe_condition("dark")


def test_dark_current_is_that_of_the_two_published_temperatures():
    camera = load_settings("all-sky", "dark").camera
    assert isinstance(camera, Camera)
    assert camera.dark_e_per_s_at(290.0) == pytest.approx(0.5)
    assert camera.dark_e_per_s_at(305.0) == pytest.approx(6.0, rel=0.02)


def test_modes_stack_one_frame_less_than_they_take():
    assert load_settings("all-sky", "dark").mode.n_stacked == 17
    assert load_settings("high-cadence", "dark").mode.n_stacked == 11
    # The published EXPTIME of an all-sky stack.
    mode = load_settings("all-sky", "dark").mode
    assert mode.n_stacked * mode.exposure1_s == pytest.approx(8.498368)
