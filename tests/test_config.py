"""Settings of a run: files and options together, and what is refused by name."""

import math

import pytest

from rbsim.config import InjectConfig, load_config
from rbsim.errors import InputError


def test_configuration_is_checked_by_name(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("stars_per_frame = 10\nsnr_max = 50\n")
    config = load_config(file, {"snr_max": 70.0, "seed": None})
    assert (config.stars_per_frame, config.snr_max, config.seed) == (10, 70.0, 1)
    file.write_text("stars = 10\n")
    with pytest.raises(InputError, match="unknown keys stars; known are"):
        load_config(file, {})
    file.write_text("seed = 'one'\n")
    with pytest.raises(InputError, match=rf"{file.name} and options: seed is 'one'"):
        load_config(file, {})
    file.write_text("stars = [")
    with pytest.raises(InputError, match="not valid TOML"):
        load_config(file, {})
    for wrong, message in (
        ({"near_galaxy": 2}, "near-galaxy is 2; allowed"),
        ({"seed": "one"}, "seed is 'one'; it must be of type int"),
        ({"negatives": 1}, "negatives is 1; it must be of type bool"),
        ({"seed": True}, "seed is True; it must be of type int"),
        ({"match_radius_sigma": 0.0}, "match-radius-sigma is 0.0; allowed: positive"),
        ({"realisations": 2.5}, "realisations is 2.5; it must be of type int"),
        ({"gain_e_per_adu": -3.0}, "gain-e-per-adu is -3.0; allowed: positive"),
        ({"gain_e_per_adu": math.inf}, "gain-e-per-adu is inf; allowed: positive and finite"),
        (
            {"zero_point_aperture_pix": math.inf},
            "zero-point-aperture-pix is inf; allowed: positive and finite",
        ),
        ({"nonlinearity": 0.5}, "nonlinearity is 0.5; allowed: 0 to 0.2"),
        ({"bias_adu": math.nan}, "bias-adu is nan; allowed: finite"),
        ({"snr_max": math.inf}, "snr-max is inf; allowed: finite"),
        (
            {"snr_min": 50.0, "snr_max": 10.0},
            "snr-min is 50.0; allowed: positive, at most snr-max, which is 10.0",
        ),
        ({"condition": 3}, "condition is 3; it must be of type str"),
    ):
        with pytest.raises(InputError, match=message):
            InjectConfig(**wrong)
