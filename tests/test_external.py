"""External engines: the physics of test_subtract over those installed, and what fails without one."""

import dataclasses
import multiprocessing
import stat
import sys

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field
from astropy.io import fits

from rbsim.convolve import convolve_varying
from rbsim.errors import InputError
from rbsim.external.hotpants import (
    PROGRAM_VARIABLE,
    find_hotpants,
    gaussian_widths,
    stamp_grid,
    subtract_hotpants,
)
from rbsim.external.sfft import check_sfft, subtract_sfft
from rbsim.kernel_basis import affordable_order

SHAPE = (380, 400)
FWHM_PIX = {"science": 3.2, "reference": 2.2}
FLUX_RATIO = 1 / 0.7

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
    return make_field(shape=SHAPE, n_stars=200)


@pytest.fixture(scope="module")
def frames(tmp_path_factory, field):
    """Science with 3.2 px, a deep reference with 2.2 px and 0.7 of the flux."""
    folder = tmp_path_factory.mktemp("frames")
    science = frame_of(folder, draw_field(field, shape=SHAPE, fwhm_pix=FWHM_PIX["science"]), "s.fits")
    dim = type(field)(field.x_pix, field.y_pix, 0.7 * field.flux_adu)
    deep = draw_field(dim, shape=SHAPE, fwhm_pix=FWHM_PIX["reference"], gain=200.0, seed=5)
    return science, frame_of(folder, deep, "r.fits", GAIN=200.0)


def options_of(field, direction="reference", *, kernel_order=1):
    other = {"reference": "science", "science": "reference"}.get(direction, "science")
    bright_first = np.argsort(-field.flux_adu)[:120]
    return {
        "direction": direction,
        "fwhm_from_pix": FWHM_PIX.get(direction, 3.0),
        "fwhm_to_pix": FWHM_PIX[other],
        "kernel_order": kernel_order,
        "background_order": 1,
        "stars_x_pix": field.x_pix[bright_first],
        "stars_y_pix": field.y_pix[bright_first],
    }


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


# What follows needs no program.


@pytest.mark.parametrize("function", [subtract_hotpants, subtract_sfft])
def test_wrong_direction_and_other_shapes_are_refused(function, frames, field):
    with pytest.raises(InputError, match="direction is 'auto'; allowed are reference, science"):
        function(*frames, **options_of(field, "auto"))
    science, reference = frames
    with pytest.raises(InputError, match=r"reference \(380, 100\); register the reference first"):
        function(science, dataclasses.replace(reference, image=reference.image[:, :100]), **options_of(field))


def test_widths_follow_the_psf_difference_above_the_programs_own():
    assert gaussian_widths(2.2, 3.2) == pytest.approx((0.7, 1.5, 3.0))
    assert gaussian_widths(3.2, 2.2) == pytest.approx((0.7, 1.5, 3.0))
    match = np.sqrt(8.0**2 - 3.0**2) / 2.3548
    assert gaussian_widths(3.0, 8.0) == pytest.approx((match / 2, match, 2 * match))


def test_few_stamps_lower_the_order_and_a_survey_frame_has_10_by_6_cells():
    assert [affordable_order(2, n) for n in (3, 11, 12, 39, 40, 500)] == [0, 0, 1, 1, 2, 2]
    assert affordable_order(0, 500) == 0
    assert stamp_grid(2000, 1128, 10, 15) == (10, 6)
    assert stamp_grid(256, 256, 10, 15) == (4, 4)
    assert stamp_grid(80, 64, 10, 15) == (1, 1)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Installs a script as HOTPANTS."""

    def install(text, *, python=False):
        path = tmp_path / "hotpants"
        path.write_text(f"#!{sys.executable if python else '/bin/sh'}\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv(PROGRAM_VARIABLE, str(path))
        return path

    return install


def test_missing_program_is_named_with_its_remedy(monkeypatch, tmp_path, frames, field):
    monkeypatch.delenv(PROGRAM_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"hotpants is not on PATH; build it .* \$RBSIM_HOTPANTS"):
        subtract_hotpants(*frames, **options_of(field))
    monkeypatch.setenv(PROGRAM_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(InputError, match="none, which is no executable file"):
        find_hotpants()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'reading' >&2; echo 'ERROR: out of cheese' >&2; echo; exit 3", "exit status 3.*out of cheese"),
        ("exit 1", "exit status 1.*it said nothing"),
        ("kill -SEGV $$", "exit status -11"),
        ("echo SUCCESS", "wrote no difference; its last line: SUCCESS"),
        ("echo garbage > difference.fits; echo SUCCESS", "wrote no difference"),
    ],
)
def test_failures_of_the_program_name_the_frame_and_its_last_words(fake, frames, field, script, message):
    fake(script)
    with pytest.raises(InputError, match=rf"s\.fits: .*{message}"):
        subtract_hotpants(*frames, **options_of(field))


def test_program_that_hangs_or_is_no_program_is_given_up(fake, frames, field, monkeypatch):
    monkeypatch.setattr("rbsim.external.hotpants.TIMEOUT_S", 0.2)
    fake("exec sleep 20")
    with pytest.raises(InputError, match="did not end within 0 s"):
        subtract_hotpants(*frames, **options_of(field))
    fake("").write_bytes(b"\x7fELF nothing")
    with pytest.raises(InputError, match="cannot be run"):
        subtract_hotpants(*frames, **options_of(field))


FAKE = """
import sys, numpy as np
from astropy.io import fits
from pathlib import Path
kept = Path({kept!r})
for path in Path(".").glob("*.fits"):
    (kept / path.name).write_bytes(path.read_bytes())
(kept / "arguments").write_text(" ".join(sys.argv[1:]))
image = np.full({shape!r}, 6.0, np.float32)
image[0] = 1e-30
solution = np.zeros(2 + 48 * 3 + 3)  # 49 functions, order 1 at most, background of order 1
solution[1] = {kernel_sum}
table = fits.BinTableHDU.from_columns([fits.Column("Region0", "D", array=solution)])
primary = fits.PrimaryHDU(image)
primary.header["KSUM00"] = "2.0"
primary.header["FSIG00"] = "1.25"
fits.HDUList([primary, table]).writeto("difference.fits", overwrite=True)
Path("stamps.txt").write_text("# X\\nimage;box( 101, 51,31,31) # color=green\\n")
"""


def run_fake(fake, tmp_path, frames, options, kernel_sum=2.0):
    kept = tmp_path / "kept"
    kept.mkdir(exist_ok=True)
    fake(FAKE.format(kept=str(kept), shape=frames[0].shape, kernel_sum=kernel_sum), python=True)
    return kept, subtract_hotpants(*frames, **options)


@pytest.mark.parametrize(
    ("direction", "value", "stamp"), [("reference", 6, (100, 50)), ("science", 3, (99, 49))]
)
def test_the_programs_output_is_read_in_science_adu(fake, tmp_path, frames, field, direction, value, stamp):
    _, difference = run_fake(fake, tmp_path, frames, options_of(field, direction))
    assert difference.lost[0].all()
    assert np.isnan(difference.image[0]).all()
    np.testing.assert_array_equal(difference.image[1:], value)
    assert (difference.flux_scale, difference.chi2_per_pixel, difference.n_stamps) == (2.0, 1.25, 1)
    assert (difference.stamp_x_pix[0], difference.stamp_y_pix[0]) == stamp
    kernel = difference.kernel_at(np.array([10.0, 200.0]), np.array([10.0, 200.0]))
    axis = np.arange(-10, 11)
    expected = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / 0.7**2)
    np.testing.assert_allclose(kernel, np.stack([2 * expected / expected.sum()] * 2), atol=1e-6)


def test_a_kernel_sum_that_is_not_positive_is_refused(fake, tmp_path, frames, field):
    with pytest.raises(InputError, match=r"s\.fits: hotpants: kernel sum is -1, must be positive"):
        run_fake(fake, tmp_path, frames, options_of(field), kernel_sum=-1.0)


def test_the_program_gets_finite_images_masks_and_the_settings_of_the_survey(fake, tmp_path, frames, field):
    """Few stamps: the fake finds one, so it runs twice, the second time with a constant kernel."""
    shape = (1128, 2000)
    wide = []
    for frame in frames:
        image, mask = np.full(shape, 5.0, np.float32), np.zeros(shape, np.uint8)
        variance = np.full(shape, 4.0, np.float32)
        image[3, 4], variance[3, 4], mask[3, 4] = np.nan, np.inf, 1
        image[7, 8], mask[7, 8] = 900.0, 2
        wide.append(dataclasses.replace(frame, image=image, variance=variance, mask=mask))
    kept, difference = run_fake(fake, tmp_path, wide, options_of(field))
    assert difference.lost[3, 4]
    assert not difference.lost[7, 8]
    arguments = (kept / "arguments").read_text()
    for setting in ("-ko 0", "-bgo 1", "-nsx 10", "-nsy 6", "-r 10", "-rss 15", "-c t", "-n u", "-il -1e9"):
        assert setting in arguments
    # Where the search for stars starts: above unsaturated pixels only.
    assert "-iuk 6.05" in arguments
    for role in ("science", "reference"):
        image, noise, mask = (fits.getdata(kept / f"{role}{s}.fits") for s in ("", ".noise", ".mask"))
        assert np.isfinite(image).all()
        assert np.isfinite(noise).all()
        assert noise[0, 0] == 2.0  # standard deviation, not variance
        assert mask[3, 4] & 0x80
        assert 0 < mask[7, 8] < 0x80  # never fitted, but subtracted
        assert np.count_nonzero(mask) == 2


def test_missing_package_is_named_with_its_remedy(monkeypatch, frames, field):
    monkeypatch.setitem(sys.modules, "sfft", None)
    monkeypatch.setitem(sys.modules, "sfft.sfftcore", None)
    monkeypatch.setitem(sys.modules, "sfft.sfftcore.SFFTSubtract", None)
    with pytest.raises(InputError, match=r"sfft cannot be used \(.*\); install it with .*rbsim\[sfft\]"):
        subtract_sfft(*frames, **options_of(field))


def test_orders_beyond_sffts_are_refused(frames, field):
    with pytest.raises(InputError, match=r"orders are 4 \(kernel\) and 1 \(background\); allowed are 0 to 3"):
        subtract_sfft(*frames, **options_of(field, kernel_order=4))
