"""Reading FITS: what is taken from header and pixels, and one clear line for each unusable file."""

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field, write_frame
from astropy.io import fits

from rbsim.errors import InputError
from rbsim.frame import DetectorOptions, find_saturation, read_frame, read_gain, split_extension


@pytest.fixture(scope="module")
def image():
    return draw_field(make_field())


def test_background_is_taken_off_and_noise_is_poisson(tmp_path, image):
    frame = frame_of(tmp_path, image)
    assert np.median(frame.sky_adu) == pytest.approx(200, abs=1)
    dark = frame.image < 15
    assert np.median(np.sqrt(frame.variance[dark])) == pytest.approx(np.sqrt(200 / 2), rel=0.05)
    bright = frame.image > 2000
    excess = frame.variance[bright] - np.median(frame.variance[dark])
    assert np.median(excess / (frame.image[bright] / 2.0)) == pytest.approx(1, abs=0.02)


def test_nan_and_infinite_pixels_are_bad_and_nothing_else(tmp_path, image):
    holed = image.copy()
    holed[10:20, 30:40] = np.nan
    holed[50, 60] = np.inf
    frame = frame_of(tmp_path, holed)
    assert np.array_equal(frame.bad, ~np.isfinite(holed))
    assert np.isnan(frame.image[frame.bad]).all()
    assert np.isinf(frame.variance[frame.bad]).all()
    assert np.isfinite(frame.image[~frame.bad]).all()


def test_pixels_without_a_usable_variance_are_bad(tmp_path, image):
    variance = np.full(image.shape, 100, np.float32)
    variance[10, 20:23] = 0, np.nan, np.inf
    path = write_frame(tmp_path / "frame.fits", image)
    fits.append(path, variance, fits.Header({"EXTNAME": "VARIANCE"}))
    frame = read_frame(path)
    assert np.array_equal(np.argwhere(frame.bad), [[10, 20], [10, 21], [10, 22]])
    assert np.isinf(frame.variance[frame.bad]).all()
    assert np.isnan(frame.image[frame.bad]).all()


def test_integer_frames_are_known(tmp_path, image):
    assert frame_of(tmp_path, np.rint(image).astype(np.int16)).detector.is_integer
    assert not frame_of(tmp_path, image).detector.is_integer


def test_option_beats_header_beats_nothing(tmp_path, image):
    path = write_frame(tmp_path / "a.fits", image, RDNOISE=5.0, SATURATE=60_000.0, MAGZERO=27.5)
    frame = read_frame(path)
    assert (frame.detector.gain_e_per_adu, frame.detector.read_noise_e) == (2.0, 5.0)
    assert (frame.detector.saturation_adu, frame.zero_point_mag, frame.zero_point_calibrated) == (
        60_000,
        27.5,
        True,
    )
    assert read_frame(path, options=DetectorOptions(gain_e_per_adu=7.0)).detector.gain_e_per_adu == 7.0
    fits.PrimaryHDU(image).writeto(tmp_path / "bare.fits")
    bare = read_frame(tmp_path / "bare.fits")
    assert np.isnan(bare.detector.gain_e_per_adu)
    assert (bare.zero_point_mag, bare.zero_point_calibrated) == (25.0, False)


def test_saturation_from_the_pile_up(tmp_path, image):
    clipped = np.minimum(image, 1500)
    frame = frame_of(tmp_path, clipped)
    assert frame.detector.saturation_adu == pytest.approx(1500, rel=0.01)
    assert frame.saturated[clipped >= 1499].all()
    assert np.isnan(find_saturation(image[image < 250]))


def test_extension_by_name_and_number(tmp_path, image):
    path = tmp_path / "multi.fits"
    fits.HDUList(
        [fits.PrimaryHDU(), fits.ImageHDU(image, name="A"), fits.ImageHDU(image + 100, name="B")]
    ).writeto(path)
    assert np.median(read_frame(path).sky_adu) == pytest.approx(200, abs=1)
    assert np.median(read_frame(f"{path}[B]").sky_adu) == pytest.approx(300, abs=1)
    assert np.median(read_frame(f"{path}[2]").sky_adu) == pytest.approx(300, abs=1)
    assert split_extension("x.fits") == (split_extension("x.fits")[0], None)
    with pytest.raises(InputError, match=r"has no extension C; it has .*A, B"):
        read_frame(f"{path}[C]")


def test_gain_from_the_header_alone_is_that_of_the_frame(tmp_path, image, monkeypatch):
    path = tmp_path / "multi.fits"
    cards = [fits.Header({"EGAIN": 3.5}), fits.Header({"GAINA": 4.0, "GAINB": 5.0}), fits.Header()]
    hdus = [fits.ImageHDU(image, header, name=name) for header, name in zip(cards, "ABC", strict=True)]
    fits.HDUList([fits.PrimaryHDU(header=fits.Header({"GAIN": 1.0})), *hdus]).writeto(path)
    options = DetectorOptions(gain_e_per_adu=7.0)
    asked = [(path, None), (f"{path}[B]", None), (f"{path}[C]", None), (f"{path}[3]", None), (path, options)]
    expected = [read_frame(source, options=given).detector.gain_e_per_adu for source, given in asked]
    np.testing.assert_array_equal(expected, [3.5, 4.5, np.nan, np.nan, 7.0])
    monkeypatch.setattr(fits.ImageHDU, "data", property(lambda _: pytest.fail("pixels were read")))
    np.testing.assert_array_equal([read_gain(source, options=given) for source, given in asked], expected)
    with pytest.raises(InputError, match="has no extension D"):
        read_gain(f"{path}[D]")
    with pytest.raises(InputError, match="no such file"):
        read_gain(tmp_path / "none.fits")


def test_time_of_exposure(tmp_path, image):
    first = frame_of(tmp_path, image, **{"DATE-OBS": "2023-01-02T09:48:14.5"})
    second = frame_of(tmp_path, image, **{"DATE-OBS": "2023-01-02", "UTC": "2023-01-02T09:49:14.5"})
    assert second.time_unix_s - first.time_unix_s == 60


def _truncated(path, image):
    write_frame(path, image)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda *_: None, "no such file"),
        (lambda path, _: path.write_text("hello"), "cannot be read as FITS"),
        (_truncated, "cannot be read as FITS"),
        (lambda path, _: fits.PrimaryHDU(np.zeros(100, np.float32)).writeto(path), "neither a 2-D image"),
        (lambda path, image: fits.PrimaryHDU(image[None, None]).writeto(path), "neither a 2-D image"),
        (lambda path, _: fits.PrimaryHDU().writeto(path), "holds no image"),
        (lambda path, image: write_frame(path, image * np.nan), "every pixel is NaN"),
        (lambda path, image: write_frame(path, image * 0), "is constant"),
        (lambda path, image: write_frame(path, image[:20]), "at least 64 px"),
    ],
)
def test_each_unusable_file_is_one_line_that_names_it(tmp_path, image, make, message):
    path = tmp_path / "bad.fits"
    make(path, image)
    with pytest.raises(InputError, match=message) as caught:
        read_frame(path)
    assert "bad.fits" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nonsense_gain_is_refused(tmp_path, image):
    with pytest.raises(InputError, match="gain_e_per_adu is -1"):
        read_frame(write_frame(tmp_path / "a.fits", image), options=DetectorOptions(gain_e_per_adu=-1))
