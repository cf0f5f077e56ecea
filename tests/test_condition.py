"""Noise conditions by name: complete, checked, and only ever worse than the frame."""

import json
import re

import pytest

import catalogs
from rbsim.condition import AS_OBSERVED, Condition, load_condition
from rbsim.config import InjectConfig, load_config
from rbsim.errors import InputError

NAMES = [name for name in catalogs.read_toml("conditions.toml") if name != "tomoe"]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_condition_has_all_parameters_and_a_sentence(name):
    condition = load_condition(name)
    assert set(catalogs.read_toml("conditions.toml")[name]) == {*condition.parameters(), "description"}
    assert condition.name == name
    assert condition.description.endswith(".")
    assert condition.is_neutral == (name == "as observed")
    assert json.loads(json.dumps(condition.parameters())) == condition.parameters()


def test_unknown_names_get_the_known_ones():
    with pytest.raises(
        InputError, match=re.escape(f"'foggy' is not known; catalogs/conditions.toml has {', '.join(NAMES)};")
    ):
        load_condition("foggy")


def test_own_file_and_its_label(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[foggy]\ntransparency = 0.2\njitter_angle_deg = 30\n[other]\nsky_factor = 2\n")
    condition = load_condition(f"{file}:foggy")
    assert condition.name == "mine.toml:foggy"
    assert (condition.transparency, condition.jitter_angle_deg, condition.sky_factor) == (0.2, 30.0, 1.0)
    with pytest.raises(InputError, match=r"condition 'clear' is not known; .*mine.toml has foggy, other"):
        load_condition(f"{file}:clear")
    with pytest.raises(InputError, match=r"is a file; add the condition's name, as in .*mine.toml:NAME"):
        load_condition(str(file))
    with pytest.raises(InputError, match=r"none.toml: no such file"):
        load_condition(f"{tmp_path / 'none.toml'}:foggy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeing = 2", r"'a' has unknown keys seeing; the keys are description, sky_factor"),
        ("sky_factor = '2'", r"'a': sky_factor is '2'; it must be a number$"),
        ("sky_factor = true", r"'a': sky_factor is True; it must be a number$"),
        ("jitter_angle_deg = 'north'", r"jitter_angle_deg is 'north'; it must be a number or \"random\""),
        ("sky_factor = 0.5", r"sky_factor is 0.5; allowed: 1 to 1000; a real frame can only be degraded"),
        ("sky_factor = nan", r"sky_factor is nan; allowed: 1 to 1000"),
        ("fwhm_factor = 0.9", r"fwhm_factor is 0.9; allowed: 1 to 5; a real frame can only be degraded"),
        ("transparency = 1.2", r"transparency is 1.2; allowed: 0.01 to 1; a real frame can only be degraded"),
        ("transparency = 0", r"transparency is 0.0; allowed: 0.01 to 1"),
        ("read_noise_added_e = -3", r"read_noise_added_e is -3.0; allowed: 0 to 1000 electrons"),
        ("jitter_rms_pix = inf", r"jitter_rms_pix is inf; allowed: 0 to 20 px"),
        ("sky_factor = ", r"mine.toml: is not valid TOML"),
    ],
)
def test_slips_are_named(tmp_path, text, message):
    file = tmp_path / "mine.toml"
    file.write_text(f"[a]\n{text}\n")
    with pytest.raises(InputError, match=message):
        load_condition(f"{file}:a")


def test_the_configuration_holds_and_stores_the_condition(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('condition = "cirrus"\n')
    config = load_config(file, {"seed": 3})
    assert config.condition == load_condition("cirrus")
    stored = json.loads(json.dumps(config.as_dict()))
    assert stored["condition"] == "cirrus"
    assert stored["condition_parameters"]["transparency"] == config.condition.transparency
    assert InjectConfig().condition == AS_OBSERVED == load_condition("as observed")
    assert load_config(None, {"condition": "windy"}).condition.jitter_angle_deg is None
    with pytest.raises(InputError, match="'nope' is not known"):
        load_config(None, {"condition": "nope"})
    with pytest.raises(InputError, match="must be of type str"):
        InjectConfig(condition="cirrus")


def test_a_name_alone_changes_nothing():
    assert Condition(name="mine", jitter_angle_deg=20.0).is_neutral
    assert not Condition(jitter_rms_pix=0.1).is_neutral
