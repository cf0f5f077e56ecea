"""RAW files of one sensor through the command line, to a reference and a difference."""

import json

import pytest
from _star_field import draw_field, make_field
from _tomoe_raw import GAIN, SHAPE, SKY_ADU, raw_frames, write_dark, write_flat, write_raw
from typer.testing import CliRunner

from cli import app
from rbsim.frame import read_frame


def test_raw_files_become_a_reference_and_differences(tmp_path):
    field = make_field(shape=SHAPE, n_stars=90, flux=(3_000, 40_000), seed=4)
    for number in range(4):
        light = draw_field(
            field, shape=SHAPE, sky_adu=SKY_ADU, gain=1e12, fwhm_pix=2.6, shift=(0.4 * number, -0.3 * number)
        )
        if number == 3:
            light[88:93, 98:103] += 400
        write_raw(
            tmp_path / f"r{number}.fits",
            raw_frames(5, seed=10 + number, light=light),
            time=f"11:51:{20 + 10 * number}.738679",
            frame_id=f"TMQ12022010400652{number:03d}12",
        )
    write_dark(tmp_path / "d.fits")
    write_flat(tmp_path / "f.fits")
    run = CliRunner()

    def do(*words):
        result = run.invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    raws = [tmp_path / f"r{number}.fits" for number in range(4)]
    calibration = ("--dark", tmp_path / "d.fits", "--flat", tmp_path / "f.fits")
    facts = do("calibrate", *raws, *calibration, "--out", tmp_path / "stacks", "--json")
    assert (facts["n_stacks"], facts["failed"]) == (4, {})
    stacks = sorted((tmp_path / "stacks").glob("s*.fits"))
    assert [path.name[10:24] for path in stacks] == [f"10400652{number:03d}12."[:14] for number in range(4)]
    do("reference", "stack", *stacks[:3], "--out", tmp_path / "ref.fits", "--json")
    reference = read_frame(tmp_path / "ref.fits")
    assert (reference.field, reference.dither, reference.sensor) == ("J0305+2216", "_dith1", 112)
    assert reference.detector.gain_e_per_adu == pytest.approx(15 * GAIN)
    facts = do(
        "subtract", stacks[3], "--reference", tmp_path / "ref.fits", "--out", tmp_path / "diff", "--json"
    )
    assert facts["n_frames_failed"] == 0
    assert facts["n_positive"] >= 1
    assert facts["median_snr_scale"] == pytest.approx(1, abs=0.2)
