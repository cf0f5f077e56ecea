"""Degraded frames have the noise, PSF and light of one exposure under the condition, and no other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _star_field import Field, draw_light, frame_of, make_field
from astropy.io import fits
from scipy.signal import fftconvolve

from rbsim import blur
from rbsim.condition import Condition, load_condition
from rbsim.cube import Cube
from rbsim.degrade import degrade, measure_depth
from rbsim.errors import InputError
from rbsim.frame import read_frame, with_gain
from rbsim.reference import psf_of, sources_of
from rbsim.sharp import find_sharp
from rbsim.sky_noise import measure_sky_noise
from rbsim.sources import grow, star_radius

SHAPE, SKY, GAIN = (420, 460), 200.0, 2.0
STARS = make_field(shape=SHAPE, n_stars=120, seed=3, flux=(1000, 60_000))


def light_of(field: Field, *, fwhm_pix: float, shape=SHAPE) -> np.ndarray:
    """Noiseless stars, ADU."""
    return np.maximum(draw_light(field, shape=shape, fwhm_pix=fwhm_pix), 0)


def exposed(light: np.ndarray, *, sky=SKY, gain=GAIN, seed=2) -> np.ndarray:
    return (np.random.default_rng(seed).poisson((light + sky) * gain) / gain).astype(np.float32)


def psf_and_frame(tmp_path, image, **cards):
    frame = frame_of(tmp_path, image, **cards)
    return psf_of(frame, sources := sources_of(frame), star_radius(sources)), frame


def rng(seed=1):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Noiseless light, PSF and frame of a field of stars at 2.5 px FWHM."""
    light = light_of(STARS, fwhm_pix=2.5)
    return light, *psf_and_frame(tmp_path_factory.mktemp("clean"), exposed(light))


def test_kernels_have_the_variance_asked_for():
    for variance in (0.01, 0.1, 1.0, 6.0):
        for kernel in blur.gaussian_kernels(variance):
            assert kernel.share.min() >= 0
            assert kernel.share.sum() == pytest.approx(1)
            moment = (kernel.share * (kernel.dx_pix**2 + kernel.dy_pix**2)).sum()
            assert moment == pytest.approx(variance, rel=0.005)


@pytest.mark.parametrize("angle_deg", [0.0, 20.0, 45.0, 90.0, 117.0, 160.0])
def test_a_line_is_as_long_as_asked_and_narrow_across(angle_deg):
    kernel = blur.line_kernel(2.0, angle_deg)
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    along, across = kernel.dx_pix * c + kernel.dy_pix * s, kernel.dy_pix * c - kernel.dx_pix * s
    assert kernel.share.min() >= 0
    assert kernel.share.sum() == pytest.approx(1)
    assert (kernel.share * along).sum() == pytest.approx(0, abs=1e-6)
    assert np.sqrt((kernel.share * along**2).sum()) == pytest.approx(2.0, rel=0.03)
    assert (kernel.share * across**2).sum() <= 0.25


def test_scattered_photons_are_white_with_the_local_variance_of_a_star():
    """Over realisations: mean and variance k * light, and neighbours that know nothing of each other."""
    y, x = np.mgrid[-16:17, -16:17]
    light = (4000 * np.exp(-(x**2 + y**2) / 2) + 300.0).astype(np.float32)
    kernels = (*blur.gaussian_kernels(0.8), blur.line_kernel(1.0, 30.0))
    made = []
    for seed in range(500):
        one = rng(seed)
        image, variance = one.poisson(light).astype(np.float32), light
        for kernel in kernels:
            image, variance = blur.scatter_photons(image, variance, kernel, rng=one)
        made.append(image)
    inside = (slice(8, -8), slice(8, -8))
    expected = light
    for kernel in kernels:
        expected = blur.blur_plain(expected, kernel)
    pull = ((np.array(made) - expected) / np.sqrt(expected))[:, *inside]
    n = len(made)
    assert np.abs(pull.mean(axis=0)).max() < 5 / np.sqrt(n)
    assert np.abs(pull.var(axis=0) - 1).max() < 5 * np.sqrt(2 / n)
    # Together the pixels of the core, and all, tell the variance better than any one: to 2 % and 0.4 %.
    for where in (expected[inside] > 1000, expected[inside] > 0):
        assert where.sum() >= 9
        assert abs(pull.var(axis=0)[where].mean() - 1) < 5 * np.sqrt(2 / (n * where.sum()))
    for dy, dx in ((0, 1), (1, 0), (1, 1), (2, 0), (0, 3)):
        pairs = pull[:, dy:, dx:] * pull[:, : pull.shape[1] - dy, : pull.shape[2] - dx]
        assert np.abs(pairs.mean(axis=0)).max() < 5 / np.sqrt(n)
    np.testing.assert_allclose(variance[inside], expected[inside], rtol=1e-4)


@pytest.mark.parametrize(
    "condition",
    [
        Condition(sky_factor=4.0),
        Condition(read_noise_added_e=25.0),
        Condition(transparency=0.4),
        Condition(fwhm_factor=1.5),
        Condition(jitter_rms_pix=1.2, jitter_angle_deg=25.0),
        Condition(sky_factor=2.0, transparency=0.5, fwhm_factor=1.3, read_noise_added_e=10.0),
    ],
    ids=["sky", "read noise", "clouds", "seeing", "jitter", "all"],
)
def test_light_and_noise_are_those_of_one_exposure(clean, condition):
    """Residuals from the noiseless truth over the noise of a Poisson exposure, on the sky and on stars."""
    light, psf, frame = clean
    made = degrade(frame, psf, condition, rng=rng())
    kernels = blur.broadening_kernels(psf, condition.fwhm_factor)
    if condition.jitter_rms_pix:
        kernels = (*kernels, blur.line_kernel(condition.jitter_rms_pix, condition.jitter_angle_deg))
    expected = condition.transparency * light
    for kernel in kernels:
        expected = blur.blur_plain(expected, kernel)
    variance = (condition.sky_factor * SKY + expected) / GAIN + condition.read_noise_added_e**2 / GAIN**2
    inside = np.zeros(SHAPE, bool)
    inside[20:-20, 20:-20] = True
    pull = (made.frame.image - expected) / np.sqrt(variance)
    sky, star = inside & (expected < 2), inside & (expected > SKY)
    assert star.sum() > 500
    assert not made.sharp[star].any()
    # Not quite 0: the background is that of the frame itself, which the wings of the stars lift a little.
    assert abs(pull[sky].mean()) < 0.03
    assert pull[sky].std() == pytest.approx(1, abs=0.015)
    assert pull[star].std() == pytest.approx(1, abs=0.06)
    assert abs(pull[star].mean()) < 0.1
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        a, b = pull[dy:, dx:], pull[: SHAPE[0] - dy, : SHAPE[1] - dx]
        for where, limit in ((sky, 0.015), (star, 0.12)):
            both = where[dy:, dx:] & where[: SHAPE[0] - dy, : SHAPE[1] - dx]
            assert abs(np.mean(a[both] * b[both])) < limit + abs(pull[where].mean())
    # The variance is that of a clipped rms as of every frame that is read, which is a little low.
    low = np.median(frame.variance[sky]) / (SKY / GAIN)
    assert 0.94 < low < 1.0
    for where in (sky, star):
        ratio = np.median(made.frame.variance[where] / variance[where])
        assert ratio == pytest.approx(low if where is sky else 1, abs=0.04)


def test_the_power_spectrum_of_a_broadened_sky_is_flat(tmp_path, clean):
    frame = frame_of(tmp_path, exposed(np.zeros(SHAPE)))
    made = degrade(frame, clean[1], Condition(fwhm_factor=2.0), rng=rng())
    power = np.abs(np.fft.rfft2(made.frame.image)) ** 2 / made.frame.image.size / (SKY / GAIN)
    frequency = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.rfftfreq(SHAPE[1])[None, :])
    for low in np.arange(0.05, 0.5, 0.05):
        ring = power[(frequency >= low) & (frequency < low + 0.05)]
        # Real and imaginary part of each mode: exponentially distributed. 2 %: estimated noise of the sky.
        assert ring.mean() == pytest.approx(1, abs=0.02 + 4 / np.sqrt(ring.size))


@pytest.mark.parametrize("name", ["bright-moon", "poor-seeing", "cirrus", "windy", "worst"])
def test_noise_fwhm_and_depth_are_as_predicted(clean, name):
    _, psf, frame = clean
    made = degrade(frame, psf, load_condition(name), rng=rng())
    sources = sources_of(made.frame)
    measured = measure_depth(made.frame, psf_of(made.frame, sources, star_radius(sources)))
    assert measured.noise_adu == pytest.approx(made.predicted.noise_adu, rel=0.02)
    assert measured.fwhm_pix == pytest.approx(made.predicted.fwhm_pix, rel=0.02)
    assert measured.limit_mag == pytest.approx(made.predicted.limit_mag, abs=0.03)


def test_predictions_are_the_formulae(clean):
    _, psf, frame = clean
    before = measure_depth(frame, psf)
    cloudy = degrade(frame, psf, Condition(transparency=0.5), rng=rng()).predicted
    assert cloudy.limit_mag == pytest.approx(before.limit_mag + 2.5 * np.log10(0.5))
    bright = degrade(frame, psf, Condition(sky_factor=4.0), rng=rng()).predicted
    assert bright.noise_adu == pytest.approx(2 * before.noise_adu, rel=1e-4)
    wide = degrade(frame, psf, Condition(fwhm_factor=1.5), rng=rng()).predicted
    assert wide.fwhm_pix == pytest.approx(1.5 * before.fwhm_pix, rel=0.01)
    assert wide.noise_adu == pytest.approx(before.noise_adu, rel=1e-6)


def test_known_read_noise_is_no_light_of_the_sky(tmp_path, clean):
    light, psf, _ = clean
    read_noise_e = 30.0
    image = exposed(light) + rng(5).normal(0, read_noise_e / GAIN, SHAPE).astype(np.float32)
    for cards, sky_e in (({"RDNOISE": read_noise_e}, SKY * GAIN), ({}, SKY * GAIN + read_noise_e**2)):
        frame = frame_of(tmp_path, image, **cards)
        made = degrade(frame, psf, Condition(sky_factor=3.0), rng=rng()).frame
        risen = float(np.median(made.sky_adu - frame.sky_adu))
        assert risen == pytest.approx(2 * sky_e / GAIN, rel=0.08)


def test_the_background_is_what_a_reader_of_the_degraded_frame_would_measure(tmp_path, clean):
    _, psf, frame = clean
    made = degrade(frame, psf, load_condition("worst"), rng=rng()).frame
    again = frame_of(tmp_path, made.image + made.sky_adu)
    off = again.sky_adu - made.sky_adu
    assert abs(np.median(off)) < 0.06 * np.sqrt(np.median(made.variance))
    assert np.median(again.variance) == pytest.approx(np.median(made.variance), rel=0.02)


def test_whole_adu_stay_whole_and_are_rounded_once(tmp_path):
    """Where a digit is as large as the noise, rounding twice would show."""
    gain = 60.0
    stars = make_field(shape=SHAPE, n_stars=120, seed=3, flux=(30, 3000))
    light = light_of(stars, fwhm_pix=2.5)
    whole = np.rint(exposed(light, sky=40.0, gain=gain) + 300).astype(np.int16)
    psf, frame = psf_and_frame(tmp_path, whole, GAIN=gain)
    assert frame.detector.is_integer
    sky = grow(light > 0.1, 2)
    for condition in (
        Condition(fwhm_factor=1.4),
        Condition(transparency=0.5),
        Condition(read_noise_added_e=20.0),
    ):
        made = degrade(frame, psf, condition, rng=rng()).frame
        raw = made.image + made.sky_adu
        np.testing.assert_allclose(raw, np.rint(raw), atol=1e-3)
        expected = 40 / gain + (condition.read_noise_added_e / gain) ** 2 + 1 / 12
        assert raw[~sky].var() == pytest.approx(expected, rel=0.035)


def test_hot_pixels_stay_sharp_and_stars_are_not_taken_for_them(tmp_path):
    for fwhm, share_kept in ((1.7, 0.97), (3.0, 0.97)):
        light = light_of(STARS, fwhm_pix=fwhm)
        image = exposed(light)
        random = rng(9)
        y, x = random.integers(10, SHAPE[0] - 10, 200), random.integers(10, SHAPE[1] - 10, 200)
        alone = light[y, x] < 5
        y, x = y[alone], x[alone]
        charge = random.uniform(15, 200, len(y)) * np.sqrt(SKY / GAIN)
        image[y, x] += charge
        image[100:300, 222] += 300.0  # a bad column
        psf, frame = psf_and_frame(tmp_path, image)
        made = degrade(frame, psf, Condition(fwhm_factor=1.5), rng=rng())
        assert made.sharp[y, x].mean() > share_kept
        kept = made.sharp[y, x] & (np.abs(x - 222) > 3)
        gone = made.frame.image[y, x] - charge
        assert abs(np.median(gone[kept])) < 0.5 * np.sqrt(SKY / GAIN)
        assert made.sharp[100:300, 222].mean() > 0.9
        beside = made.frame.image[100:300, [220, 221, 223, 224]]
        assert abs(np.median(beside)) < 0.6 * np.sqrt(SKY / GAIN)
        artefact = np.zeros(SHAPE, bool)
        artefact[y, x] = artefact[100:300, 222] = True
        assert not (made.sharp & ~grow(artefact, 1) & (light > 20)).any()
        assert (made.sharp & ~grow(artefact, 1)).sum() <= 2


def test_tracks_of_several_pixels_are_found(clean):
    light, psf, frame = clean
    image = frame.image.copy()
    place = np.unravel_index(np.argmin(grow(light > 2, 6)), SHAPE)
    y, x = int(place[0]) + 8, int(place[1]) + 8
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        track = image.copy()
        rows, columns = y + dy * np.arange(5), x + dx * np.arange(5)
        track[rows, columns] += 1500.0
        none = np.zeros(SHAPE, bool)
        found = find_sharp(track, frame.variance + np.maximum(track, 0) / GAIN, frame.variance, none, psf)
        assert found[rows, columns].sum() >= 3, (dy, dx)


def test_saturated_and_bad_pixels(tmp_path):
    light = light_of(STARS, fwhm_pix=3.0)
    image = np.minimum(exposed(light), 1500.0)
    image[50:60, 70:76] = np.nan
    psf, frame = psf_and_frame(tmp_path, image, SATURATE=1500.0)
    assert frame.saturated.sum() > 30
    made = degrade(frame, psf, Condition(fwhm_factor=1.6, transparency=0.6), rng=rng()).frame
    full = image >= 1500
    np.testing.assert_allclose((made.image + made.sky_adu)[full], 1500.0, rtol=1e-5)
    assert (made.saturated & frame.saturated).sum() == frame.saturated.sum()
    assert made.saturated.sum() > 1.3 * frame.saturated.sum()
    np.testing.assert_array_equal(made.bad, frame.bad)
    assert np.isnan(made.image[frame.bad]).all()
    assert np.isinf(made.variance[frame.bad]).all()
    ring = grow(frame.bad, 6) & ~frame.bad & (light < 2)
    assert np.abs(made.image[ring]).max() < 6 * np.sqrt(np.median(made.variance))
    bright = degrade(frame, psf, Condition(sky_factor=5.0), rng=rng()).frame
    assert (bright.image + bright.sky_adu)[~bright.bad].max() <= 1500.0 + 1e-3
    assert bright.saturated.sum() > frame.saturated.sum()
    with pytest.raises(InputError, match=r"above saturation \(1500 ADU\); take a smaller sky_factor"):
        degrade(frame, psf, Condition(sky_factor=40.0), rng=rng())


def test_everything_else_is_kept_and_the_seed_decides(clean):
    _, psf, frame = clean
    before = frame.image.copy()
    first, same, other = (degrade(frame, psf, load_condition("worst"), rng=rng(s)) for s in (4, 4, 5))
    np.testing.assert_array_equal(first.frame.image, same.frame.image)
    assert first.jitter_angle_deg == same.jitter_angle_deg != other.jitter_angle_deg
    assert not np.array_equal(first.frame.image, other.frame.image)
    np.testing.assert_array_equal(frame.image, before)
    assert first.frame.detector == frame.detector
    assert first.frame.zero_point_mag == pytest.approx(frame.zero_point_mag + 2.5 * np.log10(0.5))
    assert first.frame.image.dtype == first.frame.variance.dtype == first.frame.sky_adu.dtype == np.float32


def test_single_frames_of_a_cube_are_not_degraded_and_not_there_any_more(clean):
    _, psf, frame = clean
    of_cube = replace(frame, cube=Cube(Path("c.fits"), 0, 3, frame.shape, 200.0, 5.0, frame.detector))
    assert degrade(of_cube, psf, load_condition("grey"), rng=rng()).frame.cube is None


def test_a_variance_that_came_with_the_file_follows(tmp_path, clean):
    light, psf, _ = clean
    path = tmp_path / "given.fits"
    header = fits.Header({"GAIN": GAIN})
    variance = ((light + SKY) / GAIN).astype(np.float32)
    fits.HDUList([fits.PrimaryHDU(exposed(light), header), fits.ImageHDU(variance, name="VARIANCE")]).writeto(
        path
    )
    frame = read_frame(path)
    made = degrade(frame, psf, Condition(transparency=0.5, sky_factor=3.0), rng=rng()).frame
    expected = (0.5 * light + 3 * SKY) / GAIN
    assert np.median(made.variance / expected) == pytest.approx(1, abs=0.04)
    star = light > SKY
    assert np.median((made.variance / expected)[star]) == pytest.approx(1, abs=0.05)


def test_sky_noise_is_taken_apart(tmp_path):
    """Unresolved stars and bands of the readout are told from photons."""
    random = rng(8)
    star = light_of(Field(*(np.full(1, v) for v in (20.0, 20.0, 60.0))), fwhm_pix=2.5, shape=(41, 41))
    light = light_of(STARS, fwhm_pix=2.5) + fftconvolve(random.random(SHAPE) < 0.03, star, "same").clip(0)
    bands = np.zeros(SHAPE, np.float32)
    bands[:, ::2] = random.normal(0, 5, (SHAPE[0], 1))
    psf, frame = psf_and_frame(tmp_path, exposed(light) + bands)
    none = np.zeros(SHAPE, bool)
    sky = (light < np.quantile(light, 0.8)) & ~grow(light_of(STARS, fwhm_pix=2.5) > 2, 2)
    found = measure_sky_noise(frame.image, frame.variance, none, psf)
    true_white = (light[sky].mean() + SKY) / GAIN
    assert np.median(found.white_variance) == pytest.approx(true_white, rel=0.05)
    assert found.bands_variance == pytest.approx(bands.var(), rel=0.3)
    assert np.corrcoef(found.bands_adu[sky], bands[sky])[0, 1] > 0.85
    plain = frame_of(tmp_path, exposed(light_of(STARS, fwhm_pix=2.5)))
    calm = measure_sky_noise(plain.image, plain.variance, none, psf)
    assert np.median(calm.white_variance) == pytest.approx(SKY / GAIN, rel=0.04)
    assert calm.bands_variance < 0.04 * SKY / GAIN
    assert calm.faint_variance < 0.5 * light[sky].var() < 2 * found.faint_variance


@pytest.mark.real_frames
@pytest.mark.parametrize("name", ["bright-moon", "poor-seeing", "cirrus", "worst"])
def test_real_frames_are_as_predicted(real_frames, name):
    """hatp32: sharp stars on whole ADU, crowded, with bands; the gain is about the estimated one."""
    ratios = []
    for file in ("HATP-32171220015112", "HATP-32171220030312"):
        frame = with_gain(read_frame(real_frames / "hatp32" / f"{file}.fits"), 29.4, 2.3)
        sources = sources_of(frame)
        psf = psf_of(frame, sources, star_radius(sources))
        made = degrade(frame, psf, load_condition(name), rng=rng())
        sources = sources_of(made.frame)
        measured, wanted = measure_depth(made.frame, psf_of(made.frame, sources, star_radius(sources))), made
        depth = 10 ** (0.4 * (measured.limit_mag - wanted.predicted.limit_mag))
        ratios.append((measured.noise_adu / wanted.predicted.noise_adu, depth))
        assert measured.fwhm_pix == pytest.approx(wanted.predicted.fwhm_pix, rel=0.02)
    # More than 2 %: bands and faint stars of this camera are told from noise no better (docs/conditions.md).
    np.testing.assert_allclose(np.mean(ratios, axis=0), 1, atol=0.04)
