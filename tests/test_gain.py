"""Photon transfer recovers a known gain, with an error that means something, or refuses."""

import numpy as np
import pytest
from _star_field import draw_field, make_field
from astropy.io import fits

from rbsim.errors import InputError
from rbsim.frame import read_frame
from rbsim.gain import estimate_gain


def frames(tmp_path, levels, gain, bias=100.0, read_noise_adu=2.0):
    field = make_field(n_stars=30)
    rng = np.random.default_rng(5)
    out = []
    for i, level in enumerate(levels):
        image = draw_field(field, sky_adu=level, gain=gain, seed=i, shift=(0.7 * i, -0.4 * i))
        image = np.rint(image + bias + rng.normal(0, read_noise_adu, image.shape)).astype(np.int16)
        fits.PrimaryHDU(image).writeto(tmp_path / f"{i}.fits")
        out.append(read_frame(tmp_path / f"{i}.fits"))
    return out


@pytest.mark.parametrize("gain", [0.5, 5.0])
def test_known_gain_is_recovered_within_its_error(tmp_path, gain):
    estimate = estimate_gain(frames(tmp_path, np.linspace(100, 400, 10), gain), rng=np.random.default_rng(1))
    assert estimate.gain_err_e_per_adu < 0.2 * gain
    assert abs(estimate.gain_e_per_adu - gain) < 4 * estimate.gain_err_e_per_adu


def test_frames_may_come_one_by_one(tmp_path):
    held = frames(tmp_path, np.linspace(100, 400, 6), 2.0)
    once = estimate_gain(iter(held), rng=np.random.default_rng(1))
    assert once == estimate_gain(held, rng=np.random.default_rng(1))


def test_constant_sky_cannot_tell_the_gain(tmp_path):
    with pytest.raises(InputError, match="give --gain"):
        estimate_gain(frames(tmp_path, [200] * 5, 2.0), rng=np.random.default_rng(1))


def test_one_frame_cannot_tell_the_gain(tmp_path):
    with pytest.raises(InputError, match="0 usable pairs"):
        estimate_gain(frames(tmp_path, [200], 2.0), rng=np.random.default_rng(1))
