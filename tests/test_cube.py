"""Cubes: the mean forgets what a single frame has; light in single frames is averaged by the same rule."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from _star_field import draw_field, make_field, write_frame
from astropy.io import fits

from rbsim import cube as cube_module
from rbsim.cube import mean_of, read_box
from rbsim.draw import draw_stars
from rbsim.errors import InputError
from rbsim.frame import DetectorOptions, read_frame, read_gain
from rbsim.inject import inject_frame
from rbsim.lights import point_lights
from rbsim.reference import psf_of, sources_of
from rbsim.schema import INJECTION_FLAG, MASK
from rbsim.sources import star_radius

SHAPE, N = (170, 190), 12
GLINT = (80, 60)
FIELD = make_field(shape=SHAPE, n_stars=60, flux=(2_000, 20_000))


def planes_of(n=N, *, seed=100):
    return np.stack([draw_field(FIELD, shape=SHAPE, fwhm_pix=2.6, seed=seed + i) for i in range(n)])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """An integer cube with a glint in one frame and a cosmic ray that saturates in another."""
    planes = np.rint(planes_of())
    planes[4, GLINT[0] - 1 : GLINT[0] + 2, GLINT[1] - 1 : GLINT[1] + 2] += 3000
    planes[7, 120, 130] = 60_000
    return write_frame(
        tmp_path_factory.mktemp("cube") / "c.fits", planes.astype(np.uint16), SATURATE=60_000.0, RDNOISE=3.0
    )


@pytest.fixture(scope="module")
def frame(path):
    return read_frame(path)


@pytest.fixture(scope="module")
def psf(frame):
    sources = sources_of(frame)
    found = psf_of(frame, sources, star_radius(sources))
    # All stars alike, so that they can be drawn again.
    return replace(found, quality=replace(found.quality, shape_scatter_pix2=(0.0, 0.0, 0.0)))


def test_the_mean_of_a_cube_is_a_frame_that_remembers_it(frame, path):
    assert frame.shape == SHAPE
    assert (frame.cube.n_frames, frame.cube.path, frame.cube.detector.is_integer) == (N, path, True)
    assert frame.detector.gain_e_per_adu == 2.0 * N == read_gain(path)
    assert frame.detector.read_noise_e == pytest.approx(3.0 * np.sqrt(N))
    assert frame.detector.saturation_adu == 60_000
    assert not frame.detector.is_integer
    mean = planes_of().mean(axis=0)
    raw = frame.image + frame.sky_adu
    ordinary = (frame.mask & (MASK["ONE_FRAME"] | MASK["SATURATED"])) == 0
    assert np.abs(raw - mean)[ordinary].mean() < 0.2 * np.sqrt(100 / N)
    # Sky of 200 ADU at 2 electrons per ADU.
    assert np.median(np.sqrt(frame.variance)) == pytest.approx(np.sqrt(200 / 2 / N), rel=0.05)


def test_a_glint_in_one_frame_is_clipped_and_remembered(frame):
    here = np.s_[GLINT[0] - 1 : GLINT[0] + 2, GLINT[1] - 1 : GLINT[1] + 2]
    assert ((frame.mask & MASK["ONE_FRAME"]) != 0)[here].all()
    assert np.abs(frame.image[here]).max() < 30  # 250 without clipping
    assert np.mean((frame.mask & MASK["ONE_FRAME"]) != 0) < 0.01
    assert frame.mask[120, 130] & MASK["SATURATED"]
    assert not frame.mask[100, 100] & MASK["SATURATED"]


def test_blocks_do_not_show(path, frame, monkeypatch):
    monkeypatch.setattr(cube_module, "BLOCK_VALUES", 7 * N * SHAPE[1])
    again = read_frame(path)
    for name in ("image", "variance", "mask"):
        assert getattr(again, name).tobytes() == getattr(frame, name).tobytes()


def test_a_box_gives_the_mean_of_the_frame_again(frame):
    planes = read_box(frame.cube, slice(50, 91), slice(30, 71))
    mean, _ = mean_of(frame.cube, planes)
    raw = (frame.image + frame.sky_adu)[50:91, 30:71]
    np.testing.assert_allclose(mean[1:-1, 1:-1], raw[1:-1, 1:-1], atol=1e-3)


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(cube_module, "BLOCK_VALUES", 200_000)
    peaks = []
    for n in (6, 48):
        path = write_frame(tmp_path / f"{n}.fits", np.tile(planes_of(6), (n // 6, 1, 1)).astype(np.int16))
        tracemalloc.start()
        read_frame(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def brief(x, y, flux, n_frames):
    lights = point_lights(*(np.atleast_1d(np.asarray(v, float)) for v in (x, y, flux)))
    return replace(lights, n_cube_frames=np.atleast_1d(n_frames))


@pytest.mark.parametrize(
    ("n_lit", "flux", "share"),
    [
        (1, 3000, 0.0),  # a glint: an outlier in one frame
        (3, 3000, 0.0),  # outliers in a quarter of them
        (8, 3000, 12 / 8),  # now the dark frames are the outliers
        (12, 3000, 1.0),
        (2, 8, 1.0),  # too faint to be an outlier
    ],
)
def test_light_in_single_frames_meets_the_clipping(frame, psf, n_lit, flux, share):
    rng = np.random.default_rng(1)
    gains, alone = [], []
    for x, y in [(40.2, 120.4), (150.0, 40.0), (95.5, 95.0), (60.0, 30.7)] * 5:
        out = inject_frame(frame, psf, brief(x, y, flux, n_lit), rng=rng)
        assert out.drawn[0]
        line, column = round(y), round(x)
        gains.append(out.light.plane()[line - 1 : line + 2, column - 1 : column + 2].sum())
        alone.append(bool(out.science.mask[line, column] & MASK["ONE_FRAME"]))
        np.testing.assert_allclose(out.science.image - frame.image, out.light.plane(), atol=1e-3)
    near = psf_flux_within(psf, 1)  # the wings below 4 sigma are never clipped
    error = 5 * np.sqrt((flux * share / (2 * N) + 9 / 12 / N + 1) / len(gains))
    assert np.mean(gains) == pytest.approx(flux * share * near, abs=0.05 * flux * max(share, 0.4) + error)
    assert all(alone) == (n_lit == 1)


def psf_flux_within(psf, half):
    star = draw_stars(psf, np.array([95.0]), np.array([85.0]), np.ones(1))[0][0]
    middle = psf.half_pix
    return star[middle - half : middle + half + 1, middle - half : middle + half + 1].sum()


def test_injection_is_what_a_cube_with_the_light_would_give(tmp_path, path, frame, psf):
    out = inject_frame(frame, psf, brief(60.0, 110.0, 6000, 9), rng=np.random.default_rng(3))
    # The same light put into the file itself, drawn with the same numbers.
    planes = fits.getdata(path).astype(np.int64)
    star, left, bottom = draw_stars(psf, np.array([60.0]), np.array([110.0]), np.array([6000.0 * N / 9]))
    size = star.shape[1]
    rng = np.random.default_rng(4)
    box = np.s_[bottom[0] : bottom[0] + size, left[0] : left[0] + size]
    for plane in planes[1:10]:
        plane[box] += np.rint(rng.poisson(np.maximum(star[0], 0) * 2) / 2).astype(np.int64)
    header = fits.getheader(path)
    cards = {name: header[name] for name in ("GAIN", "SATURATE", "RDNOISE")}
    real = read_frame(write_frame(tmp_path / "lit.fits", planes.astype(np.uint16), **cards))
    core = np.s_[104:117, 54:67]
    added, expected = out.science.image[core], real.image[core]
    noise = np.sqrt(2 * (200 + star[0].max()) / 2 / 9)
    # Where the light is about as large as the clipping limit, noise decides whether a frame stays.
    assert np.count_nonzero(np.abs(added - expected) > 5 * noise) <= 2
    assert added.sum() == pytest.approx(expected.sum(), rel=0.02)
    assert (out.science.mask[core] == (real.mask[core] | MASK["INJECTED"])).mean() > 0.9


def test_full_well_is_that_of_each_frame(frame, psf):
    out = inject_frame(frame, psf, brief(100.0, 100.0, 300_000, 2), rng=np.random.default_rng(5))
    assert out.flag[0] == INJECTION_FLAG["SATURATED"]
    assert out.science.mask[100, 100] & MASK["SATURATED"]
    assert np.nanmax(out.science.image[95:106, 95:106]) < 60_000 / N


def test_no_light_in_single_frames_changes_nothing(frame, psf):
    out = inject_frame(frame, psf, brief(100.0, 100.0, 0, 2), rng=np.random.default_rng(6))
    for name in ("image", "variance", "mask"):
        assert getattr(out.science, name).tobytes() == getattr(frame, name).tobytes()


def test_without_a_cube_or_with_too_few_frames_the_row_is_flagged(frame, psf):
    for science, n_lit in ((replace(frame, cube=None), 1), (frame, N + 1)):
        out = inject_frame(science, psf, brief(100.0, 100.0, 500, n_lit), rng=np.random.default_rng(7))
        assert out.flag[0] == INJECTION_FLAG["NO_CUBE"]
        assert not out.drawn[0]
        assert out.science.image.tobytes() == frame.image.tobytes()
    with pytest.raises(InputError, match="light is taken away from whole exposures only"):
        inject_frame(frame, psf, brief(100.0, 100.0, -500, 1), rng=np.random.default_rng(7))


def test_a_cube_that_changed_is_said(tmp_path, psf):
    path = write_frame(tmp_path / "c.fits", planes_of(4))
    frame = read_frame(path)
    write_frame(path, planes_of(3))
    with pytest.raises(InputError, match="has changed since it was read"):
        inject_frame(frame, psf, brief(100.0, 100.0, 500, 1), rng=np.random.default_rng(8))


def test_a_plain_image_has_no_cube(tmp_path):
    frame = read_frame(write_frame(tmp_path / "f.fits", planes_of(1)[0]))
    assert frame.cube is None
    assert frame.detector.gain_e_per_adu == 2.0
    one = read_frame(write_frame(tmp_path / "one.fits", planes_of(1)))
    np.testing.assert_array_equal(one.image, frame.image)


def test_options_are_of_a_single_frame_and_bad_pixels_stay_bad(tmp_path):
    planes = planes_of(5)
    planes[:, 20:23, 30:33] = np.nan
    planes[2, 60, 60] = np.nan
    path = write_frame(tmp_path / "nan.fits", planes)
    frame = read_frame(path, options=DetectorOptions(gain_e_per_adu=3.0))
    assert frame.detector.gain_e_per_adu == 15.0
    assert frame.bad[20:23, 30:33].all()
    assert frame.bad.sum() == 9
