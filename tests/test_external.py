"""External engines: the physics of test_subtract over those installed."""

import dataclasses
import multiprocessing
import sys

import numpy as np
import pytest
from _engine_frames import FLUX_RATIO, SHAPE, options_of, pair, stars

from rbsim.convolve import convolve_varying
from rbsim.errors import InputError
from rbsim.external.hotpants import find_hotpants, subtract_hotpants
from rbsim.external.sfft import check_sfft, subtract_sfft

ENGINES = {"hotpants": (subtract_hotpants, find_hotpants), "sfft": (subtract_sfft, check_sfft)}


@pytest.fixture(scope="module", params=sorted(ENGINES))
def engine(request):
    """The function of each engine that is installed."""
    function, find = ENGINES[request.param]
    try:
        find()
    except InputError as error:
        pytest.skip(str(error))
    return function


@pytest.fixture(scope="module")
def field():
    return stars()


@pytest.fixture(scope="module")
def frames(tmp_path_factory, field):
    return pair(tmp_path_factory.mktemp("frames"), field)


@pytest.fixture(scope="module")
def differences(engine, frames, field):
    """One difference per direction; compiling and running take a while."""
    return {
        direction: engine(*frames, **options_of(field, direction)) for direction in ("reference", "science")
    }


def variance_of(difference, frames, direction):
    """Propagated by our own convolution, from the kernels alone."""
    science, reference = (np.where(np.isfinite(f.variance), f.variance, 0) for f in frames)
    source, target = (reference, science) if direction == "reference" else (science, reference)
    noise = convolve_varying(source, lambda x, y: difference.kernel_at(x, y) ** 2) + target
    return noise if direction == "reference" else noise / difference.flux_scale**2


@pytest.mark.parametrize("direction", ["reference", "science"])
def test_flux_scale_is_found_and_whitened_difference_has_unit_variance(differences, frames, direction):
    difference = differences[direction]
    expected = FLUX_RATIO if direction == "reference" else 1 / FLUX_RATIO
    assert difference.flux_scale == pytest.approx(expected, rel=0.03)
    whitened = difference.image / np.sqrt(variance_of(difference, frames, direction))
    whitened = whitened[~difference.lost]
    assert 1.4826 * np.median(np.abs(whitened)) == pytest.approx(1, abs=0.05)
    # Sharpening a Moffat star is ill-conditioned: the cores of the brightest are left.
    assert np.mean(np.abs(whitened) > 5) < (1e-4 if direction == "reference" else 3e-3)
    assert difference.n_stamps == len(difference.stamp_x_pix) == len(difference.stamp_y_pix) > 10


def test_stars_vanish(differences, frames, field):
    difference = differences["reference"]
    variance = variance_of(difference, frames, "reference")
    inside = (np.abs(field.x_pix - 200) < 175) & (np.abs(field.y_pix - 190) < 165)
    chi2 = []
    for x, y in zip(field.x_pix[inside], field.y_pix[inside], strict=True):
        box = (slice(round(y) - 4, round(y) + 5), slice(round(x) - 4, round(x) + 5))
        chi2.append(np.mean(difference.image[box] ** 2 / variance[box]))
    assert np.median(chi2) < 1.2
    assert np.max(chi2) < 2.5


@pytest.mark.parametrize("direction", ["reference", "science"])
def test_transient_stays_positive_with_its_flux_in_science_adu(engine, frames, field, direction, differences):
    """Also the sign and the units: both directions give science minus reference."""
    science, reference = frames
    x, y, flux = 163, 148, 3000.0
    axis = np.arange(-10, 11)
    star = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / 1.36**2)
    image = science.image.copy()
    box = (slice(y - 10, y + 11), slice(x - 10, x + 11))
    image[box] += flux * star / star.sum()
    with_star = dataclasses.replace(science, image=image)
    found = engine(with_star, reference, **options_of(field, direction)).image - differences[direction].image
    assert np.sum(found[box]) == pytest.approx(flux, rel=0.08)


def test_stamps_lie_on_stars(differences, frames):
    """An offset of a pixel or two would show; a few have a brighter neighbour."""
    for direction, difference in differences.items():
        image = frames[1 if direction == "reference" else 0].image
        on_star = []
        for x, y in zip(difference.stamp_x_pix, difference.stamp_y_pix, strict=True):
            iy, ix = np.unravel_index(np.argmax(image[y - 2 : y + 3, x - 2 : x + 3]), (5, 5))
            on_star.append(max(abs(iy - 2), abs(ix - 2)) <= 1)
        assert np.mean(on_star) > 0.85, direction


def model_by_hand(engine, source, kernel_at, x, y):
    """One pixel of the source convolved with the kernel of where each program evaluates it."""
    half = kernel_at(np.array([x]), np.array([y])).shape[1] // 2
    offset = np.arange(-half, half + 1)
    light = source[y - half : y + half + 1, x - half : x + half + 1][::-1, ::-1]  # at x - offset
    if engine is subtract_hotpants:  # constant in steps of the kernel's width, from the border of half of it
        step = 2 * half + 1
        centre = [half + (v - half) // step * step + half for v in (x, y)]
        kernel = kernel_at(np.array([centre[0]]), np.array([centre[1]]))[0]
    else:  # that of the pixel the light comes from
        from_y, from_x = (v.ravel() for v in np.meshgrid(y - offset, x - offset, indexing="ij"))
        kernels = kernel_at(from_x, from_y).reshape(len(offset), len(offset), len(offset), len(offset))
        kernel = np.einsum("ijij->ij", kernels)
    return np.sum(light * kernel)


@pytest.mark.parametrize("direction", ["reference", "science"])
def test_kernel_at_is_the_kernel_the_program_convolved_with(engine, frames, field, differences, direction):
    """The program's model is target - difference: our convolution plus a background of first order."""
    difference = differences[direction]
    science, reference = (frame.image.astype(float) for frame in frames)
    source, target = (reference, science) if direction == "reference" else (science, reference)
    sign = 1 if direction == "reference" else -difference.flux_scale
    model = target - sign * difference.image
    inside = (np.abs(field.x_pix - 200) < 150) & (np.abs(field.y_pix - 190) < 140)
    bright = np.flatnonzero(inside)[np.argsort(-field.flux_adu[inside])[:12]]
    places = [
        (round(field.x_pix[i]) + dx, round(field.y_pix[i]) + dy)
        for i in bright
        for dx, dy in ((0, 0), (2, 1), (-3, 2), (1, -4))
    ]
    theirs = np.array([model[y, x] for x, y in places])
    ours = np.array([model_by_hand(engine, source, difference.kernel_at, x, y) for x, y in places])
    plane = np.column_stack([np.ones(len(places)), np.array(places) / 100])
    background = plane @ np.linalg.lstsq(plane, theirs - ours, rcond=None)[0]
    peaks = np.repeat([model[round(field.y_pix[i]), round(field.x_pix[i])] for i in bright], 4)
    assert np.max(np.abs(theirs - ours - background) / peaks) < 1e-4


def test_bad_pixels_stay_bad_and_do_not_spread(engine, frames, field, differences):
    science, reference = frames
    holed = {}
    for name, frame, place in (
        ("s", science, np.s_[80:84, 200:203]),
        ("r", reference, np.s_[150:153, 160:163]),
    ):
        image, variance, mask = frame.image.copy(), frame.variance.copy(), frame.mask.copy()
        image[place], variance[place], mask[place] = np.nan, np.inf, 1
        holed[name] = dataclasses.replace(frame, image=image, variance=variance, mask=mask)
    difference = engine(holed["s"], holed["r"], **options_of(field))
    assert difference.lost[80:84, 200:203].all()
    assert difference.lost[150:153, 160:163].all()
    assert difference.lost[0].all()
    assert difference.lost[:, -1].all()
    border = difference.kernel_at(np.array([160]), np.array([150])).shape[1] // 2
    inner = np.s_[border:-border, border:-border]
    lost_y, lost_x = np.nonzero(difference.lost[inner])
    lost_y, lost_x = lost_y + border, lost_x + border
    in_science = (lost_y >= 80) & (lost_y < 84) & (lost_x >= 200) & (lost_x < 203)
    # The hole of the image that stays is lost as it is, that of the convolved one by the kernel's reach.
    assert np.max(np.hypot(lost_x - 161, lost_y - 151)[~in_science]) <= np.sqrt(2) * (border + 1)
    assert np.count_nonzero(in_science) == 12
    # What is not lost is what it was, but for another choice of stamps.
    both = ~difference.lost & ~differences["reference"].lost
    change = (difference.image - differences["reference"].image)[both]
    assert np.std(change) < 0.3 * np.sqrt(np.median(science.variance))


def test_no_fill_value_is_left_and_nan_is_exactly_where_pixels_are_lost(differences):
    for difference in differences.values():
        assert difference.image.dtype == np.float32
        assert difference.lost.dtype == bool
        np.testing.assert_array_equal(np.isnan(difference.image), difference.lost)
        values = difference.image[~difference.lost]
        assert np.isfinite(values).all()
        assert not np.any(np.abs(values) < 1e-20)
        assert np.mean(difference.lost) < 0.2


def test_saturated_pixels_are_subtracted_but_not_fitted(engine, frames, field):
    science, reference = frames
    brightest = np.argmax(np.where(np.abs(field.x_pix - 200) < 140, field.flux_adu, 0))
    x, y = round(field.x_pix[brightest]), round(field.y_pix[brightest])
    mask = science.mask.copy()
    mask[y - 1 : y + 2, x - 1 : x + 2] |= 2
    difference = engine(dataclasses.replace(science, mask=mask), reference, **options_of(field))
    assert not difference.lost[y, x]
    near = np.hypot(difference.stamp_x_pix - x, difference.stamp_y_pix - y)
    assert np.min(near) > difference.stamp_half_pix


def test_nothing_leaks(engine, frames, field, capfd):
    before = [(f.image.copy(), f.variance.copy(), f.mask.copy()) for f in frames]
    method = multiprocessing.get_start_method(allow_none=True)
    engine(*frames, **options_of(field))
    assert capfd.readouterr() == ("", "")
    assert multiprocessing.get_start_method(allow_none=True) == method
    for frame, copies in zip(frames, before, strict=True):
        for now, then in zip((frame.image, frame.variance, frame.mask), copies, strict=True):
            np.testing.assert_array_equal(now, then)
    if engine is subtract_sfft:
        assert callable(sys.modules["numba"].set_num_threads)


def test_frames_without_stars_are_refused(engine, frames, field):
    science, reference = frames
    rng = np.random.default_rng(4)
    blank = [
        dataclasses.replace(f, image=rng.normal(0, np.sqrt(np.median(f.variance)), SHAPE).astype(np.float32))
        for f in (science, reference)
    ]
    nowhere = options_of(field) | {"stars_x_pix": np.array([]), "stars_y_pix": np.array([])}
    with pytest.raises(InputError, match=r"s\.fits: (hotpants found no stamps|only 0 usable stars)"):
        engine(*blank, **nowhere)
