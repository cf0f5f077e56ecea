"""Injection in electrons: response and full well of the sum, light taken away, trails, stars that overlap.

The frames here are drawn from the very PSF that injects, so the truth is exact: a frame with a star
injected must be distributed as a frame that was exposed with it.
"""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field

from rbsim.detector import Detector
from rbsim.draw import draw_stars
from rbsim.electrons import take_away
from rbsim.errors import InputError
from rbsim.frame import DetectorOptions, read_frame
from rbsim.inject import inject_frame
from rbsim.lights import Lights, point_lights
from rbsim.photon_noise import add_source_noise
from rbsim.reference import psf_of, sources_of
from rbsim.schema import INJECTION_FLAG, MASK
from rbsim.shine import shine
from rbsim.sources import star_radius

SHAPE = (200, 220)
SKY_ADU, GAIN = 200.0, 2.0


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A frame and its PSF."""
    field = make_field(shape=SHAPE, n_stars=90, flux=(2_000, 40_000))
    frame = frame_of(tmp_path_factory.mktemp("physics"), draw_field(field, shape=SHAPE, fwhm_pix=2.6))
    sources = sources_of(frame)
    return frame, psf_of(frame, sources, star_radius(sources))


def exposed(frame, light, *, rng, gain=GAIN, integer=False, **detector):
    """`frame` as if sky and light had been exposed together, with known mean sky and noise."""
    raw = rng.poisson((SKY_ADU + light) * gain) / gain
    camera = Detector(gain, 0.0, np.nan, np.nan, is_integer=integer, **detector)
    if detector.get("nonlinearity"):
        camera = replace(camera, saturation_adu=detector["saturation_adu"])
        raw = camera.raw_of(raw)
    if integer:
        raw = np.rint(raw)
    sky = np.full(SHAPE, SKY_ADU, np.float32)
    variance = np.full(SHAPE, SKY_ADU / gain + integer / 12, np.float32)
    image = (raw - sky).astype(np.float32)
    return replace(
        frame,
        image=image,
        sky_adu=sky,
        variance=add_source_noise(variance, image, gain),
        mask=np.zeros(SHAPE, np.uint8),
        detector=camera,
    )


def lattice(step=34):
    x, y = np.meshgrid(np.arange(20.3, SHAPE[1] - 18, step), np.arange(20.7, SHAPE[0] - 18, step))
    return x.ravel(), y.ravel()


def scene(psf, x, y, flux):
    """Noiseless light of stars on a frame."""
    out = np.zeros(SHAPE)
    stars, corner_x, corner_y = draw_stars(psf, x, y, np.full(len(x), float(flux)))
    for star, left, bottom in zip(stars, corner_x, corner_y, strict=True):
        out[bottom : bottom + len(star), left : left + len(star)] += star
    return out


@pytest.mark.parametrize("integer", [False, True])
def test_a_star_that_fades_leaves_a_frame_as_of_the_fainter_star(fitted, integer):
    frame, psf = fitted
    x, y = lattice()
    bright, lost = scene(psf, x, y, 8000.0), 6000.0
    # The middle 5 x 5 pixels of every star, shape (n_stars, 25).
    step = np.arange(-2, 3)
    line = (np.rint(y).astype(int)[:, None, None] + step[:, None] + 0 * step).reshape(len(y), -1)
    column = (np.rint(x).astype(int)[:, None, None] + step + 0 * step[:, None]).reshape(len(x), -1)
    rng = np.random.default_rng(1)
    left = []
    for _ in range(40):
        before = exposed(frame, bright, rng=rng, integer=integer)
        # What inject knows from the difference: the frame without its noise.
        model = before.image - bright.astype(np.float32)
        out = shine(before, psf, point_lights(x, y, np.full(len(x), -lost)), difference_image=model, rng=rng)
        assert (out.flag == 0).all()
        left.append(out.science.image[line, column].astype(float) + SKY_ADU)
    left = np.array(left)
    mean = SKY_ADU + scene(psf, x, y, 8000.0 - lost)[line, column]
    variance = mean / GAIN + integer / 12
    assert left.mean(axis=0).sum() == pytest.approx(mean.sum(), abs=4 * np.sqrt(variance.sum() / len(left)))
    # That of the fainter star, pixel by pixel; the brighter star's was larger by half.
    brighter = (SKY_ADU + bright[line, column]) / GAIN
    assert brighter.mean() > 1.5 * variance.mean()
    assert (left.var(axis=0, ddof=1) / variance).mean() == pytest.approx(1, abs=5 * np.sqrt(2 / left.size))
    # And in the sum over each star, in which errors that its pixels share would add up.
    sums = left.sum(axis=2).var(axis=0, ddof=1) / variance.sum(axis=1)
    assert sums.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / (39 * len(x))))


def test_without_a_difference_the_mean_is_right_and_the_pixels_are_calmer(fitted):
    frame, psf = fitted
    x, y = lattice()
    bright, near = scene(psf, x, y, 8000.0), scene(psf, x, y, 1.0) > 0.02
    rng = np.random.default_rng(2)
    left = []
    for _ in range(40):
        out = inject_frame(
            exposed(frame, bright, rng=rng), psf, point_lights(x, y, np.full(len(x), -6000.0)), rng=rng
        )
        left.append(out.science.image[near] + SKY_ADU)
    left = np.array(left)
    mean = SKY_ADU + scene(psf, x, y, 2000.0)[near]
    assert left.mean() == pytest.approx(mean.mean(), rel=0.005)
    before = (SKY_ADU + bright[near]).mean() / GAIN
    assert left.var(axis=0, ddof=1).mean() < 0.85 * before


def test_more_light_than_there_is_cannot_be_taken_and_is_flagged(fitted):
    frame, psf = fitted
    rng = np.random.default_rng(3)
    before = exposed(frame, np.zeros(SHAPE), rng=rng)
    out = inject_frame(
        before, psf, point_lights(np.array([100.0]), np.array([90.0]), np.array([-1e5])), rng=rng
    )
    assert out.flag[0] & INJECTION_FLAG["OVERDRAWN"]
    assert (out.science.image + SKY_ADU).min() >= -1e-3
    assert (out.science.variance > 0).all()


def test_electrons_are_taken_from_those_that_are_there():
    rng = np.random.default_rng(4)
    expected, lost = np.full(200_000, 30.0), np.full(200_000, 12.0)
    present = rng.poisson(expected)
    gone = take_away(lost, expected, present, rng=rng)
    assert (gone >= 0).all()
    assert (gone <= present).all()
    left = present - gone
    assert left.mean() == pytest.approx(18, abs=5 * np.sqrt(18 / 2e5))
    assert left.var() == pytest.approx(18, rel=0.02)
    assert not take_away(np.zeros(5), np.full(5, 30.0), np.full(5, 30.0), rng=rng).any()
    assert (take_away(np.full(5, 40.0), np.full(5, 30.0), np.full(5, 7.0), rng=rng) == 7).all()


@pytest.mark.parametrize("bias", [0.0, 1000.0])
def test_response_and_its_inverse(bias):
    camera = Detector(1.0, 0.0, np.nan, 60_000.0, is_integer=False, nonlinearity=0.05, bias_adu=bias)
    light = np.linspace(-50, 60_000 - bias, 1000)
    np.testing.assert_allclose(camera.light_of(camera.raw_of(light)), light, atol=1e-6)
    full = 60_000 - bias
    assert camera.raw_of(np.array([full]))[0] - bias == pytest.approx(full * 0.95)
    assert (np.diff(camera.raw_of(np.linspace(0, 20 * full, 500))) >= 0).all()
    straight = replace(camera, nonlinearity=0.0)
    np.testing.assert_allclose(straight.light_of(straight.raw_of(light)), light, atol=1e-9)


def test_a_star_on_a_nonlinear_detector_is_the_response_of_the_sum(fitted):
    frame, psf = fitted
    x, y = lattice()
    host = scene(psf, x, y, 60_000.0)
    camera = {"nonlinearity": 0.1, "saturation_adu": 20_000.0, "bias_adu": 100.0}
    rng = np.random.default_rng(5)
    star = 40_000.0
    response = Detector(GAIN, 0.0, np.nan, is_integer=False, **camera)
    added = []
    for _ in range(20):
        raw = response.raw_of(rng.poisson((SKY_ADU + host) * GAIN) / GAIN)
        sky = np.full(SHAPE, response.raw_of(np.array(SKY_ADU)), np.float32)
        before = replace(
            frame,
            image=(raw - sky).astype(np.float32),
            sky_adu=sky,
            detector=response,
            mask=np.zeros(SHAPE, np.uint8),
        )
        out = inject_frame(before, psf, point_lights(x, y, np.full(len(x), star)), rng=rng)
        added.append(out.light.plane())
    both = response.raw_of(SKY_ADU + host + scene(psf, x, y, star)) - response.raw_of(SKY_ADU + host)
    total = np.mean(added, axis=0).sum()
    assert total == pytest.approx(both.sum(), rel=2e-3)
    assert both.sum() < 0.97 * star * len(x)  # the effect that is tested is there
    assert (out.flag == INJECTION_FLAG["NONLINEAR"]).all()
    faint = inject_frame(
        before, psf, point_lights(np.array([36.0]), np.array([37.0]), np.array([50.0])), rng=rng
    )
    assert faint.flag[0] == 0


def test_nonlinearity_needs_a_saturation_level(tmp_path):
    frame_of(tmp_path, draw_field(make_field(n_stars=5)))
    options = DetectorOptions(nonlinearity=0.05)
    with pytest.raises(InputError, match=r"nonlinearity refers to saturation.*give --saturation"):
        read_frame(tmp_path / "frame.fits", options=options)
    with pytest.raises(InputError, match=r"nonlinearity is 0.5; give a fraction from 0 to 0.2"):
        read_frame(tmp_path / "frame.fits", options=DetectorOptions(nonlinearity=0.5, saturation_adu=6e4))
    detector = read_frame(
        tmp_path / "frame.fits", options=DetectorOptions(nonlinearity=0.05, saturation_adu=6e4, bias_adu=12.0)
    ).detector
    assert (detector.nonlinearity, detector.bias_adu) == (0.05, 12.0)


def test_stars_on_top_of_each_other_add_up_and_saturate_together(fitted):
    frame, psf = fitted
    x, y = np.array([100.2, 103.0, 100.2]), np.array([90.4, 90.4, 88.0])
    rng = np.random.default_rng(6)
    before = exposed(frame, np.zeros(SHAPE), rng=rng, integer=True)
    out = inject_frame(before, psf, point_lights(x, y, np.full(3, 5000.0)), rng=rng)
    assert out.light.plane().sum() == pytest.approx(15_000, abs=5 * np.sqrt(15_000 / GAIN + 300))
    np.testing.assert_array_equal(out.light.plane(), out.science.image - before.image)
    np.testing.assert_allclose(out.noise.plane(), out.science.variance - before.variance, atol=1e-3)
    full = replace(before, detector=replace(before.detector, saturation_adu=900.0))
    out = inject_frame(full, psf, point_lights(x, y, np.full(3, 20_000.0)), rng=rng)
    assert (out.science.image + SKY_ADU).max() == 900.0
    assert (out.flag & INJECTION_FLAG["SATURATED"]).all()
    assert ((out.science.mask & MASK["SATURATED"]) != 0)[out.science.image + SKY_ADU == 900.0].all()


def test_variance_follows_the_frames_own_rule(fitted):
    frame, psf = fitted
    x, y = lattice()
    rng = np.random.default_rng(7)
    before = exposed(frame, np.zeros(SHAPE), rng=rng)
    out = inject_frame(before, psf, point_lights(x, y, np.geomspace(50, 50_000, len(x))), rng=rng)
    whole = before.variance + (
        add_source_noise(before.variance, out.science.image, GAIN)
        - add_source_noise(before.variance, before.image, GAIN)
    )
    # What is left out is below 1 % of the pixel's variance, or one photon in the wings.
    changed = np.abs(out.science.variance / whole - 1)
    assert np.quantile(changed, 0.999) < 0.02
    core = scene(psf, x, y, 1.0) > 0.01
    np.testing.assert_allclose(out.science.variance[core], whole[core], rtol=1e-4)


@pytest.mark.parametrize("integer", [False, True])
def test_a_trail_conserves_flux_and_is_flagged_like_a_star(fitted, integer):
    frame, psf = fitted
    rng = np.random.default_rng(8)
    before = exposed(frame, np.zeros(SHAPE), rng=rng, integer=integer)
    lights = replace(
        point_lights(np.array([110.0, -300.0]), np.array([95.0, 50.0]), np.array([2e4, 2e4])),
        trail_length_pix=np.array([40.0, 25.0]),
        trail_angle_deg=np.array([33.0, 0.0]),
    )
    out = inject_frame(before, psf, lights, rng=rng)
    n_pixels = np.count_nonzero(out.touched)
    assert out.light.plane().sum() == pytest.approx(2e4, abs=5 * np.sqrt(2e4 / GAIN + n_pixels / 6))
    assert list(out.drawn) == [True, False]
    assert list(out.flag) == [0, INJECTION_FLAG["NO_OVERLAP"]]


def test_lights_that_are_not_finite_are_one_clear_error(fitted):
    frame, psf = fitted
    lights = point_lights(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([10.0, np.nan]))
    with pytest.raises(InputError, match="light 1: flux_adu is nan"):
        inject_frame(frame, psf, lights, rng=np.random.default_rng(1))
    flagged = replace(lights, flag=np.array([0, INJECTION_FLAG["MAG_BAD"]], np.int32))
    out = inject_frame(frame, psf, flagged, rng=np.random.default_rng(1))
    assert list(out.drawn) == [True, False]


def test_a_frame_without_gain_is_refused(fitted):
    frame, psf = fitted
    blind = replace(frame, detector=replace(frame.detector, gain_e_per_adu=np.nan))
    with pytest.raises(InputError, match="no gain; give --gain"):
        inject_frame(blind, psf, point_lights(*np.ones((3, 1))), rng=np.random.default_rng(1))


def test_the_same_seed_gives_the_same_bits(fitted):
    frame, psf = fitted
    x, y = lattice()
    flux = np.where(np.arange(len(x)) % 3 == 0, -300.0, 900.0)
    lights = Lights(
        x, y, flux, 0 * x, 3.0 * (np.arange(len(x)) % 4 == 1), 0 * x, (0 * x).astype(int), (0 * x).astype(int)
    )
    first, second = (inject_frame(frame, psf, lights, rng=np.random.default_rng(9)) for _ in range(2))
    for name in ("image", "variance", "mask"):
        assert getattr(first.science, name).tobytes() == getattr(second.science, name).tobytes()


def test_memory_per_star_does_not_grow_with_the_frame(fitted):
    frame, psf = fitted
    peaks = {}
    for factor in (1, 3):
        big = replace(
            frame,
            **{
                name: np.tile(getattr(frame, name), (factor, factor))
                for name in ("image", "sky_adu", "variance", "mask")
            },
        )
        for n in (1, 33):
            x, y = (values[:n] for values in lattice())
            lights = point_lights(np.resize(x, n), np.resize(y, n), np.full(n, 500.0))
            inject_frame(big, psf, lights, rng=np.random.default_rng(1))
            tracemalloc.start()
            inject_frame(big, psf, lights, rng=np.random.default_rng(1))
            peaks[factor, n] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peaks[3, 33] - peaks[3, 1] <= 1.1 * (peaks[1, 33] - peaks[1, 1])
