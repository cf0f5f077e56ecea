"""External engines without any program: wrong arguments, programs that are missing, fail, hang or answer."""

import dataclasses
import stat
import sys

import numpy as np
import pytest
from _engine_frames import options_of, pair, stars
from astropy.io import fits

from rbsim.errors import InputError
from rbsim.external.hotpants import (
    PROGRAM_VARIABLE,
    find_hotpants,
    gaussian_widths,
    stamp_grid,
    subtract_hotpants,
)
from rbsim.external.sfft import subtract_sfft
from rbsim.kernel_basis import affordable_order


@pytest.fixture(scope="module")
def field():
    return stars()


@pytest.fixture(scope="module")
def frames(tmp_path_factory, field):
    return pair(tmp_path_factory.mktemp("frames"), field)


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
