"""Package data: every shipped night is complete, every slip in a night's table is named."""

import copy

import pytest

import catalogs
from rbsim.emulate.settings import load_night, night_from_tables
from rbsim.errors import InputError

TABLES = catalogs.read_toml("nights.toml")


def test_unknown_file_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'mornings.toml' is not known; there are .*nights.toml"):
        catalogs.read_toml("mornings.toml")


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_shipped_night_loads(name):
    night = load_night(name)
    assert night.name == name
    assert night.n_exposures == TABLES[name]["n_exposures"]


def test_like_takes_what_is_not_overridden():
    demo, tiny = load_night("demo"), load_night("tiny")
    assert tiny.optics == demo.optics
    assert tiny.detector.nx_pix < demo.detector.nx_pix
    assert tiny.detector.gain_e_per_adu == demo.detector.gain_e_per_adu


def test_unknown_night_lists_the_known_ones():
    with pytest.raises(InputError, match="night 'dome' is not known; there are demo, tiny"):
        load_night("dome")


def _spoil(part, key, value):
    tables = copy.deepcopy(TABLES)
    table = tables["demo"][part] if part else tables["demo"]
    if value is None:
        del table[key]
    else:
        table[key] = value
    return tables


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("sky", "star_per_pix", 1.0, "demo.sky: unknown keys star_per_pix"),
        ("", "telescope", "Kiso", "demo: unknown keys telescope"),
        ("optics", "fwhm_pix", None, "demo.optics: missing keys fwhm_pix"),
        (
            "detector",
            "gain_e_per_adu",
            "high",
            "demo.detector: gain_e_per_adu is 'high'; it must be of type float",
        ),
        ("detector", "nx_pix", 640.5, "nx_pix is 640.5; it must be of type int"),
        ("", "n_exposures", True, "n_exposures is True; it must be of type int"),
        ("", "like", "dome", "like is 'dome'; it must be one of demo, tiny"),
    ],
)
def test_slips_in_a_table_are_named(part, key, value, message):
    with pytest.raises(InputError, match=message):
        night_from_tables(_spoil(part, key, value), "demo")
