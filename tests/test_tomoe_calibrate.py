"""RAW frames of a sensor with known dark, flat, defects and light: what comes out is the light."""

import gzip
import tracemalloc

import numpy as np
import pytest
from _star_field import draw_field
from _tomoe_files import CUBE, cards_of, write_file
from _tomoe_raw import (
    BLINK,
    DARK_ADU,
    DEFECTS,
    FIELD,
    FULL_ADU,
    GAIN,
    HIGH,
    LIGHT_ADU,
    RAY,
    READ_NOISE,
    RESPONSE,
    SHAPE,
    SKY_ADU,
    X0,
    N,
    X,
    raw_frames,
    write_dark,
    write_flat,
    write_raw,
)
from astropy.io import fits

from rbsim import cube as cube_module
from rbsim.cube import read_box
from rbsim.errors import InputError
from rbsim.frame import read_frame
from rbsim.parallel import Parallel
from rbsim.schema import MASK
from rbsim.tomoe import calibrate
from rbsim.tomoe import run as tomoe_run
from rbsim.tomoe.run import SUMMARY, calibrate_files, parse_first_pixel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A RAW cube with a cosmic ray in one frame and a star that saturates in another."""
    out = tmp_path_factory.mktemp("raw")
    frames = raw_frames()
    frames[4, RAY[0], X0 + RAY[1]] = 9_000
    frames[7, BLINK[0], X0 + BLINK[1]] = 26_500
    write_raw(out / "r.fits", frames)
    write_dark(out / "d.fits")
    write_flat(out / "f.fits")
    return out


@pytest.fixture(scope="module")
def stack(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated") / "out"
    summary = calibrate_files(
        [str(folder / "r.fits")], out, darks=[str(folder / "d.fits")], flats=[str(folder / "f.fits")]
    )
    assert not summary.failed
    return read_frame(out / f"s{CUBE['frame_id']}.fits")


def test_what_comes_out_is_the_light(stack):
    raw = stack.image + stack.sky_adu
    assert stack.shape == SHAPE
    # Of the mean of N frames, in electrons: light and read noise.
    sigma_adu = np.sqrt((LIGHT_ADU * RESPONSE * GAIN + READ_NOISE**2) / N) / GAIN / RESPONSE
    pull = ((raw - LIGHT_ADU) / sigma_adu)[~stack.bad & ~stack.saturated]
    assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
    assert pull.std() == pytest.approx(1, abs=0.04)  # clipping takes a little
    assert np.abs(pull).max() < 6


def test_bad_pixels_are_the_hot_and_the_dead(stack):
    np.testing.assert_array_equal(stack.bad, DEFECTS)


def test_saturation_is_marked_per_frame_before_the_mean(stack):
    assert stack.mask[BLINK] & MASK["SATURATED"]
    assert (stack.image + stack.sky_adu)[BLINK] < 1_000  # the mean does not show it
    top = LIGHT_ADU * RESPONSE + DARK_ADU > 1.02 * FULL_ADU
    assert top.sum() > 5
    assert stack.saturated[top & ~stack.bad].all()
    assert stack.saturated.mean() < 0.01


def test_what_a_single_frame_has_is_marked_and_left_out(stack):
    assert stack.mask[RAY] & MASK["ONE_FRAME"]
    assert abs((stack.image + stack.sky_adu - LIGHT_ADU)[RAY]) < 5 * 2 / np.sqrt(N) / GAIN * 2
    assert ((stack.mask & MASK["ONE_FRAME"]) != 0).mean() < 0.01


def test_the_electronics_of_a_stack_are_those_of_its_mean(stack):
    """The noise that the gain predicts is the noise of the sky."""
    assert stack.detector.gain_e_per_adu == pytest.approx(N * GAIN)
    expected = np.sqrt((SKY_ADU * GAIN + READ_NOISE**2) / N) / GAIN
    assert np.sqrt(np.median(stack.variance[~stack.bad])) == pytest.approx(expected, rel=0.05)
    assert (stack.sensor, stack.field, stack.exposure_s) == (112, "J0305+2216", pytest.approx(N * 0.499904))
    assert stack.wcs is None


def test_a_cube_needs_no_dark_and_gives_the_mean_that_reading_it_gives(tmp_path):
    lit = draw_field(FIELD, shape=SHAPE, sky_adu=SKY_ADU, gain=GAIN, fwhm_pix=2.6)
    planes = np.stack([np.roll(lit, i, axis=0) for i in range(4)])
    path = write_file(tmp_path / "c.fits", cards_of(CUBE | {"exptime": str(4 * 0.499904)}, more=HIGH), planes)
    calibrate_files([str(path)], tmp_path / "out")
    stack, mean = read_frame(tmp_path / "out" / f"s{CUBE['frame_id']}.fits"), read_frame(path)
    np.testing.assert_array_equal(stack.image, mean.image)
    np.testing.assert_array_equal(stack.mask, mean.mask)
    assert stack.detector.gain_e_per_adu == mean.detector.gain_e_per_adu == 4 * GAIN


def test_memory_does_not_grow_with_the_number_of_frames(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cube_module, "BLOCK_VALUES", 200_000)
    peaks = []
    for n in (6, 48):
        path = write_raw(tmp_path / f"{n}.fits", np.tile(raw_frames(6), (n // 6, 1, 1)))
        tracemalloc.start()
        calibrate_files(
            [str(path)],
            tmp_path / f"out{n}",
            darks=[str(folder / "d.fits")],
            flats=[str(folder / "f.fits")],
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_workers_do_not_show(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tomoe_run, "FILES_PER_TASK", 1)
    more = write_raw(tmp_path / "r2.fits", raw_frames(4, seed=9), frame_id="TMQ1202201040065228312")
    given = {"darks": [str(folder / "d.fits")], "flats": [str(folder / "f.fits")]}
    for out, parallel in (("a", Parallel(0)), ("b", Parallel(2))):
        calibrate_files([str(more), str(folder / "r.fits")], tmp_path / out, parallel=parallel, **given)
    names = [path.name for path in sorted((tmp_path / "a").iterdir())]
    assert len(names) == 3
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_blocks_do_not_show(folder, stack, tmp_path, monkeypatch):
    monkeypatch.setattr(cube_module, "BLOCK_VALUES", 7 * N * SHAPE[1])
    given = {"darks": [str(folder / "d.fits")], "flats": [str(folder / "f.fits")]}
    calibrate_files([str(folder / "r.fits")], tmp_path / "out", **given)
    again = read_frame(tmp_path / "out" / stack.name)
    for name in ("image", "mask"):
        assert getattr(again, name).tobytes() == getattr(stack, name).tobytes()


def test_calibrated_cubes_can_be_looked_into_again(folder, stack, tmp_path):
    """The mean of the cube that is written is the stack, and its frames are there for flares and glints."""
    given = {"darks": [str(folder / "d.fits")], "flats": [str(folder / "f.fits")]}
    calibrate_files([str(folder / "r.fits")], tmp_path / "out", cubes=True, **given)
    cube = read_frame(tmp_path / "out" / "cubes" / f"r{CUBE['frame_id']}.fits")
    np.testing.assert_allclose(
        (cube.image + cube.sky_adu)[~cube.bad],
        (stack.image + stack.sky_adu)[~stack.bad],
        rtol=1e-6,
        atol=1e-3,
    )
    np.testing.assert_array_equal(cube.bad, stack.bad)
    assert cube.mask[RAY] & MASK["ONE_FRAME"]
    assert (cube.cube.n_frames, cube.cube.detector.gain_e_per_adu) == (N, GAIN)
    assert cube.detector.gain_e_per_adu == stack.detector.gain_e_per_adu
    frames = read_box(cube.cube, slice(0, SHAPE[0]), slice(0, SHAPE[1]))
    assert np.nanmedian(frames, axis=(1, 2)) == pytest.approx(SKY_ADU, rel=0.1)


# Where RAW pixels see light.


def calibrated(tmp_path, raw, folder, **options):
    calibrate_files(
        [str(raw)],
        tmp_path / "out",
        darks=[str(folder / "d.fits")],
        flats=[str(folder / "f.fits")],
        **options,
    )
    return read_frame(tmp_path / "out" / f"s{CUBE['frame_id']}.fits")


def test_in_the_dark_the_lit_columns_must_be_told(folder, tmp_path):
    frames = raw_frames(4, light=np.zeros(SHAPE))
    frames[:, :, X0 : X0 + SHAPE[1]] -= np.rint(DARK_ADU).astype(np.int16)
    raw = write_raw(tmp_path / "r.fits", frames)
    with pytest.raises(
        InputError, match=r"too dark to tell which 200 x 180 of its 216 x 180 px.*--first-pixel"
    ):
        calibrated(tmp_path, raw, folder)
    assert calibrated(tmp_path, raw, folder, first_pixel=(0, X0)).shape == SHAPE
    with pytest.raises(InputError, match="from pixel 20,0 on its 216 x 180 px do not hold the 200 x 180"):
        calibrate_files(
            [str(raw)],
            tmp_path / "out2",
            darks=[str(folder / "d.fits")],
            flats=[str(folder / "f.fits")],
            first_pixel=(0, 20),
        )
    assert parse_first_pixel("78, 0") == (0, 78)
    with pytest.raises(InputError, match="--first-pixel is '78'; give two whole numbers"):
        parse_first_pixel("78")


def test_cards_tell_the_lit_columns_and_the_wcs_moves_with_them(folder, stack, tmp_path):
    wcs = (
        "CTYPE1  = 'RA---TAN'\nCTYPE2  = 'DEC--TAN'\nCRVAL1  = 50.5\nCRVAL2  = 59.4\nCRPIX1  = 109.0\n"
        "CRPIX2  = 90.0\nCD1_1   = -3.303E-04\nCD1_2   = 0.0\nCD2_1   = 0.0\nCD2_2   = 3.303E-04\n"
    )
    cards = f"EFP-MIN1= {X0 + 1}\nEFP-MIN2= 1\n{wcs}{HIGH}"
    frame = calibrated(tmp_path, write_raw(tmp_path / "r.fits", raw_frames(), more=cards), folder)
    assert np.abs(frame.image - stack.image)[~frame.bad & ~frame.saturated & ~stack.saturated].max() < 20
    assert [float(v) for v in frame.wcs.world_to_pixel_values(50.5, 59.4)] == pytest.approx([108 - X0, 89])


def test_compressed_raw_files_give_the_same_stack(folder, stack, tmp_path):
    """Unsigned, gzipped, fpacked: what an archive may do to 16-bit frames."""
    plain = folder / "r.fits"
    with fits.open(plain) as hdus:
        data, header = hdus[0].data.astype(np.int32), hdus[0].header
        fits.PrimaryHDU((data + 500).astype(np.uint16), header).writeto(tmp_path / "unsigned.fits")
        parts = [fits.PrimaryHDU(), fits.CompImageHDU(data.astype(np.int16), header)]
        fits.HDUList(parts).writeto(tmp_path / "r.fits.fz")
    (tmp_path / "r.fits.gz").write_bytes(gzip.compress(plain.read_bytes(), 1))
    for name in ("r.fits.gz", "r.fits.fz"):
        again = calibrated(tmp_path / name.replace(".", ""), tmp_path / name, folder)
        assert again.image.tobytes() == stack.image.tobytes()
        assert again.mask.tobytes() == stack.mask.tobytes()
        assert again.detector == stack.detector
    above = calibrated(tmp_path / "unsigned", tmp_path / "unsigned.fits", folder)
    good = ~stack.bad & ~stack.saturated & ~above.saturated
    light = (above.image + above.sky_adu - stack.image - stack.sky_adu)[good] * RESPONSE[good]
    assert np.quantile(np.abs(light - 500), 0.999) < 0.01  # but where the clipping decides anew


# Which dark and flat.


def test_dark_and_flat_are_chosen_by_sensor_gain_exposure_and_date(folder, tmp_path):
    given = tmp_path / "calibration"
    given.mkdir()
    day = {"day": "2022-01-05", "frame_id": "TMQ1202201050065300012"}
    write_dark(given / "near.fits", **day)
    write_dark(given / "far.fits", day="2022-03-05", frame_id="TMQ1202203050066300012")
    write_dark(given / "sensor.fits", **day | {"frame_id": "TMQ1202201050065300011"})
    write_dark(given / "gain.fits", more="GAINCNFG= 'low'\n", **day)
    write_dark(given / "slow.fits", exptime1="0.999904", exptime="358.965536", **day)
    write_flat(given / "flat1.fits", day="2021-12-01", frame_id="TMQ1202112010062000012")
    write_flat(given / "flat2.fits", day="2022-01-03", frame_id="TMQ1202201030065100012")
    (given / "torn.fits").write_bytes(b"SIMPLE")

    def used(out, **ids):
        raw = [str(folder / "r.fits")]
        summary = calibrate_files(raw, tmp_path / out, darks=[str(given)], flats=[str(given)], **ids)
        return summary.rows[0]["dark"], summary.rows[0]["flat"]

    assert used("a") == ("near.fits", "flat2.fits")
    assert used("b", dark_id="663000", flat_id="TMQ1202112010062000012") == ("far.fits", "flat1.fits")
    stating = write_raw(tmp_path / "s.fits", raw_frames(4), more=f"DARK_ID = 663000\nFLAT_ID = 1\n{HIGH}")
    row = calibrate_files([str(stating)], tmp_path / "d", darks=[str(given)], flats=[str(given)]).rows[0]
    assert (row["dark"], row["flat"]) == ("far.fits", "flat2.fits")  # of a flat 1 nothing is known
    with pytest.raises(InputError, match="no dark has the id '7'; there are TMQ1"):
        used("c", dark_id="7")
    for name in ("near.fits", "far.fits"):
        (given / name).unlink()
    with pytest.raises(
        InputError, match=r"no dark for sensor 112, gain high, 0\.4999 s; there are gain\.fits"
    ):
        used("c")


@pytest.mark.parametrize(
    ("dark", "flat", "message"),
    [
        ({"more": "GAINCNFG= 'low'\n"}, {}, r"d\.fits: has gain low, not high; give a dark of the same gain"),
        ({"exptime1": "0.999904"}, {}, r"d\.fits: its frames were exposed for 0\.999904 s, not 0\.499904 s"),
        ({"frame_id": "TMQ1202310020102010311"}, {}, r"d\.fits: is of sensor 111, not 112"),
        ({"image": DARK_ADU[:-1]}, {}, r"f\.fits: has 200 x 180 px, the dark d\.fits 200 x 179"),
        ({"image": np.full(SHAPE, np.nan)}, {}, r"d\.fits: the dark has no values"),
        ({"fmttype": "TOMOE-IMAGE-FLAT"}, {}, r"d\.fits: is a flat, not a dark; give a dark"),
        ({}, {"image": np.zeros(SHAPE)}, r"f\.fits: 36000 pixels of the flat are 0"),
        ({}, {"image": np.where(X == 7, 0, 9.0)}, r"f\.fits: 180 pixels of the flat are 0.*make them NaN"),
        ({}, {"image": np.full(SHAPE, -4.0)}, r"f\.fits: the median of the flat is -4"),
        ({}, {"image": np.where(X % 3 > 0, np.nan, 9.0)}, r"d\.fits: 67% of the pixels are bad by it and f"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(folder, tmp_path, dark, flat, message):
    write_dark(tmp_path / "d.fits", **dark)
    write_flat(tmp_path / "f.fits", **flat)
    out = tmp_path / "out"
    given = {"darks": [str(tmp_path / "d.fits")], "flats": [str(tmp_path / "f.fits")]}
    with pytest.raises(InputError, match=message):
        calibrate_files([str(folder / "r.fits")], out, **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.fits", "f.fits"]


def torn(frames):
    frames[2, 100:] = 0
    return frames


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda path: write_raw(path, raw_frames(6), fmttype="TOMOE-IMAGE-SLAB"),
            "'TOMOE-IMAGE-SLAB' is not",
        ),
        (lambda path: write_raw(path, torn(raw_frames(6))), r"frame 3 of 6 is damaged \(44% of its lines"),
        (lambda path: write_raw(path, raw_frames(6), exptime="5.998848"), "6 of 12 frames are there"),
        (
            lambda path: write_raw(path, raw_frames(6)).write_bytes(path.read_bytes()[:-90_000]),
            "cannot be read as FITS.*truncated",
        ),
        (write_dark, "is a dark; RAW files and cubes are calibrated"),
        (lambda path: path.write_text("no"), "cannot be read as FITS"),
    ],
)
def test_bad_files_are_rows_with_a_reason_and_alone_an_error(folder, tmp_path, spoil, message):
    bad, good = tmp_path / "bad.fits", folder / "r.fits"
    spoil(bad)
    given = {"darks": [str(folder / "d.fits")], "flats": [str(folder / "f.fits")]}
    with pytest.raises(InputError, match=message):
        calibrate_files([str(bad)], tmp_path / "out", **given)
    assert not list(tmp_path.glob("out*"))
    if "RAW files" not in message and "SLAB" not in message:
        return
    summary = calibrate_files([str(bad), str(good)], tmp_path / "out", **given)
    assert list(summary.failed) == ["bad.fits"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        SUMMARY,
        f"s{CUBE['frame_id']}.fits",
    ]


def test_raw_needs_dark_and_flat_and_no_two_files_give_one_stack(folder, tmp_path):
    raw = folder / "r.fits"
    with pytest.raises(InputError, match=r"r\.fits: is RAW; give --dark"):
        calibrate_files([str(raw)], tmp_path / "out", flats=[str(folder / "f.fits")])
    copy = tmp_path / "r.fits"
    copy.write_bytes(raw.read_bytes())
    with pytest.raises(InputError, match=r"is of the exposure and sensor of .*r\.fits; give one of them"):
        calibrate_files([str(raw), str(copy)], tmp_path / "out")


def test_a_hot_pixel_is_one_that_stands_out_of_its_neighbours():
    """A gradient or the noise of the dark makes none."""
    source = np.random.default_rng(7)
    dark = 5 + 100 * X / SHAPE[1] + source.normal(0, 0.5, SHAPE)
    assert calibrate._hot(dark, 0.1).mean() < 1e-3
    dark[50, 50] += 20
    dark[60, 60] = np.nan
    assert calibrate._hot(dark, 0.1)[[50, 60], [50, 60]].all()


# The whole way on the command line.
