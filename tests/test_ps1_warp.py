"""PS1 stacks: read as they are in the archive, summed onto a sensor with flux, place, noise, masks right."""

import numpy as np
import pytest
from _ps1_field import DEC, RA, sensor_wcs, write_stack
from astropy.io import fits

from rbsim.errors import InputError
from rbsim.ps1.deposit import deposit
from rbsim.ps1.mask_bits import BAD, BITS
from rbsim.ps1.skycell import find_skycells, read_card, read_pixels
from rbsim.ps1.tessellation import skycell
from rbsim.ps1.warp import WarpConfig, overlapping, smooth, warp
from rbsim.schema import MASK
from rbsim.transform import Transform, transform_from_wcs

SHAPE = (120, 150)
PLAIN = WarpConfig(smoothing_fwhm_pix=0)
FINE = (800, 1000)  # covers SHAPE with a margin at any angle of a right one


def affine(angle_deg, scale, from_shape, at=(0.0, 0.0)):
    """Turn, scale and shift from a fine grid, its middle going to `at`."""
    cos, sin = np.cos(np.radians(angle_deg)) * scale, np.sin(np.radians(angle_deg)) * scale
    ny, nx = from_shape
    half_x, half_y = (nx - 1) / 2, (ny - 1) / 2
    return Transform(
        np.array([at[0], cos * half_x, -sin * half_y]),
        np.array([at[1], sin * half_x, cos * half_y]),
        1,
        from_shape,
        0,
        float("nan"),
    )


def crpix_of(shape=FINE, ra=RA, dec=DEC):
    """FITS reference pixel that puts a position in the middle of an image of skycell.1405.053."""
    cell = skycell(1405, 53)
    x, y = (float(v) for v in cell.wcs().world_to_pixel_values(ra, dec))
    return cell.crpix1 - x + (shape[1] - 1) / 2, cell.crpix2 - y + (shape[0] - 1) / 2


def gauss(shape, x, y, sigma, total):
    yy, xx = np.ogrid[: shape[0], : shape[1]]
    return total / (2 * np.pi * sigma**2) * np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * sigma**2))


def test_aligned_pixels_are_plain_sums():
    fine = np.random.default_rng(1).normal(size=(40, 60))
    transform = affine(0, 0.25, fine.shape, at=((60 / 4 - 1) / 2, (40 / 4 - 1) / 2))
    (total,), area = deposit([fine], transform, (10, 15))
    np.testing.assert_allclose(total, fine.reshape(10, 4, 15, 4).sum(axis=(1, 3)), atol=1e-12)
    np.testing.assert_allclose(area, 1, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 7.0, 45.0, 90.0, 211.0])
def test_every_angle_keeps_the_sum_the_centroid_and_a_flat_sky(angle):
    fine = gauss((300, 300), 160.3, 145.9, 7.0, 1000.0)
    transform = affine(angle, 0.21, fine.shape, at=(40.2, 39.7))
    flag = fine > 0.1
    (total, flagged), area = deposit([fine, flag], transform, (80, 80))
    assert total.sum() == pytest.approx(fine.sum(), rel=1e-10)
    assert flagged.sum() == pytest.approx(flag.sum() * 0.21**2, rel=1e-9)
    where = transform.apply(np.array([160.3]), np.array([145.9]))
    y, x = np.indices(total.shape)
    assert (x * total).sum() / total.sum() == pytest.approx(where[0][0], abs=5e-4)
    assert (y * total).sum() / total.sum() == pytest.approx(where[1][0], abs=5e-4)
    inner = area[25:55, 25:55]
    assert abs(inner - 1).max() < 0.012
    assert inner.mean() == pytest.approx(1, abs=2e-3)


def test_turned_squares_are_as_good_as_exact_areas():
    # The slow way: each fine pixel as 24 x 24 points.
    fine = gauss((60, 60), 29.0, 31.0, 2.0, 100.0)
    transform = affine(33.0, 0.21, fine.shape, at=(7.3, 7.1))
    (total,), _ = deposit([fine], transform, (15, 15))
    part = (np.arange(24) + 0.5) / 24 - 0.5
    y, x = (np.repeat(np.arange(60), 24) + np.tile(part, 60) for _ in range(2))
    at_x, at_y = transform.apply(*np.meshgrid(x, y))
    counts = np.repeat(np.repeat(fine, 24, axis=0), 24, axis=1) / 24**2
    slow = np.zeros((15, 15))
    column, row = np.rint(at_x).astype(int), np.rint(at_y).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < 15) & (row < 15)
    np.add.at(slow, (row[inside], column[inside]), counts[inside])
    assert abs(total - slow).max() < 0.005 * slow.max()


def test_coarser_images_are_refused():
    with pytest.raises(InputError, match=r"its pixels are 1.20 of the frame's; only finer"):
        deposit([np.zeros((9, 9))], affine(0, 1.2, (9, 9)), (4, 4))


@pytest.mark.parametrize(("angle", "flip"), [(0.0, False), (180.0, True), (12.0, False), (90.0, True)])
@pytest.mark.parametrize("smoothing", [0.0, 1.6])
def test_a_star_keeps_its_flux_and_its_place(tmp_path, angle, flip, smoothing):
    values = gauss(FINE, 520.3, 388.6, 2.1, 1e5)
    card = read_card(write_stack(tmp_path, values, crpix=crpix_of(), variance=np.ones(FINE, np.float32)))
    wcs = sensor_wcs(SHAPE, angle_deg=angle, flip=flip)
    result = warp([card], wcs, SHAPE, config=WarpConfig(smoothing_fwhm_pix=smoothing))
    image = np.nan_to_num(result.image)
    assert image.sum() == pytest.approx(1e5, rel=1e-4)
    x, y = wcs.world_to_pixel_values(*card.wcs.pixel_to_world_values(520.3, 388.6))
    yy, xx = np.indices(SHAPE)
    # Without smoothing the star is undersampled, and its centroid follows the phase of the pixels.
    error = 2e-3 if smoothing else 0.015
    assert (xx * image).sum() / image.sum() == pytest.approx(float(x), abs=error)
    assert (yy * image).sum() / image.sum() == pytest.approx(float(y), abs=error)
    second = ((xx - x) ** 2 * image).sum() / image.sum()
    fine_px = 0.25 / 1.189
    expected = (2.1 * fine_px) ** 2 + (smoothing / 2.3548) ** 2 + 1 / 12
    assert second == pytest.approx(expected, rel=0.03 if smoothing else 0.07)
    assert result.zero_point_mag == pytest.approx(25 + 2.5 * np.log10(400))


def test_the_variance_is_that_of_the_noise(tmp_path):
    rng = np.random.default_rng(3)
    card = read_card(
        write_stack(tmp_path, rng.normal(0, 3, FINE), crpix=crpix_of(), variance=np.full(FINE, 9, np.float32))
    )
    wcs = sensor_wcs(SHAPE, angle_deg=5)
    for config in (PLAIN, WarpConfig()):
        result = warp([card], wcs, SHAPE, config=config)
        good = result.image[2:-2, 2:-2]
        assert np.median(result.variance[2:-2, 2:-2]) == pytest.approx(9 * (1.189 / 0.25) ** 2, rel=0.02)
        boxes = good[:114, :144].reshape(19, 6, 24, 6).sum(axis=(1, 3))
        # What smoothing moves across the borders of a box of 6 px lowers its scatter.
        assert boxes.std() / np.sqrt(36 * 9 * (1.189 / 0.25) ** 2) == pytest.approx(0.93, abs=0.09)
        assert result.noise_ratio == pytest.approx(1, abs=0.05)


def test_masks_are_carried_as_shares_and_flags(tmp_path):
    values, mask = np.full(FINE, 10.0), np.zeros(FINE, np.uint16)
    values[400:420, 500:520] = np.nan  # a core of 5 arcsec
    mask[400:420, 500:520] = BITS["SAT"]
    mask[395:425, 495:525] |= BITS["STARCORE"]
    mask[300, 300] = BITS["CR"]  # a single pixel is filled
    mask[200:260, 600:603] = BITS["SPIKE"]
    variance = np.full(FINE, 4, np.float32)
    card = read_card(write_stack(tmp_path, values, crpix=crpix_of(), mask=mask, variance=variance))
    wcs = sensor_wcs(SHAPE)
    plain = warp([card], wcs, SHAPE, config=PLAIN)
    inner = (slice(1, -1), slice(1, -1))
    assert plain.bad_share[inner].sum() == pytest.approx(401 * (0.25 / 1.189) ** 2, rel=0.02)
    assert plain.flagged_share.sum() == pytest.approx((500 + 180) * (0.25 / 1.189) ** 2, rel=0.02)
    x, y = wcs.world_to_pixel_values(*card.wcs.pixel_to_world_values(509.5, 409.5))
    core = int(np.rint(y)), int(np.rint(x))
    assert plain.mask[core] == MASK["BAD"] | MASK["SATURATED"]
    assert np.isnan(plain.image[core])
    assert np.isinf(plain.variance[core])
    x, y = wcs.world_to_pixel_values(*card.wcs.pixel_to_world_values(300, 300))
    ray = int(np.rint(y)), int(np.rint(x))
    assert 0.01 < plain.bad_share[ray] < 0.06
    # Every pixel with a value has the sky, whatever was masked in it.
    level = 10 * (1.189 / 0.25) ** 2
    for result in (plain, warp([card], wcs, SHAPE)):
        np.testing.assert_allclose(result.image[np.isfinite(result.image)], level, rtol=5e-3)
        assert not np.isnan(result.image[ray])
        assert not (result.mask & MASK["EDGE"]).any()
    assert plain.variance[ray] > 1.005 * np.median(plain.variance)


def test_smoothing_grows_large_holes_and_fills_small_ones():
    image, bad = np.full((200, 200), 5, np.float32), np.zeros((200, 200), bool)
    image[50, 50] = image[80:120, 80:120] = np.nan
    bad[50, 50] = bad[80:120, 80:120] = True
    smoothed, lost = smooth(image, bad, 3.0, min_share=0.8)
    np.testing.assert_allclose(smoothed[~lost], 5, rtol=1e-5)
    assert not lost[50, 50]
    assert 1600 < lost.sum() < 46.5**2
    same, kept = smooth(image, bad, 0.0, min_share=0.8)
    assert (kept == bad).all()
    assert same[50, 50] == 0


def test_skycells_with_other_exposures_meet_without_a_step(tmp_path):
    # The same sky in two files that overlap, with zero points of 400 and 800 s.
    left, right = crpix_of(ra=RA + 0.03), crpix_of(ra=RA - 0.03)
    variance = np.ones(FINE, np.float32)
    write_stack(tmp_path, np.full(FINE, 10.0), crpix=left, variance=variance)
    write_stack(
        tmp_path, np.full(FINE, 20.0), crpix=right, exposure_s=800.0, variance=4 * variance, name="1405.054"
    )
    result = warp(find_skycells(tmp_path, "r"), sensor_wcs(SHAPE), SHAPE)
    assert result.names == ("skycell.1405.053", "skycell.1405.054")
    level = 10 * (1.189 / 0.25) ** 2
    np.testing.assert_allclose(result.image, level, rtol=1e-3)
    # Averaged, not independent: no better than one of them.
    np.testing.assert_allclose(result.variance, (1.189 / 0.25) ** 2, rtol=0.02)


def test_places_without_a_skycell_are_edge_and_bad(tmp_path):
    card = read_card(write_stack(tmp_path, np.full(FINE, 10.0), crpix=crpix_of(ra=RA + 0.03)))
    result = warp([card], sensor_wcs(SHAPE), SHAPE)
    outside = np.isnan(result.image)
    assert 0.2 < outside.mean() < 0.8
    assert (result.mask[outside] == MASK["BAD"] | MASK["EDGE"]).all()
    assert (result.bad_share[outside] == 1).all()
    assert result.image[~outside].std() < 0.01 * result.image[~outside].mean()


def test_asinh_scaled_pixels_and_old_cards_are_read(tmp_path):
    linear = np.random.default_rng(4).normal(5, 40, FINE)
    linear[3, 4] = 2e5
    soften, offset = 110.3, -0.37
    values = np.arcsinh((linear - offset) / (2 * soften)) * 2.5 / np.log(10)  # as Lupton et al. (1999)
    path = write_stack(tmp_path, values, crpix=(11760.0, 242.0), variance=np.full(FINE, 1600, np.float32))
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["BSOFTEN"], hdus[0].header["BOFFSET"] = soften, offset
    card = read_card(path)
    assert card.name == "skycell.1405.053"
    assert card.band == "r"
    assert card.zero_point_mag == pytest.approx(31.505, abs=1e-3)
    assert set(card.companions) == {"wt"}
    np.testing.assert_allclose(card.wcs.pixel_to_world_values(11759.0, 241.0), [332, 2], atol=1e-9)
    east, north = card.wcs.pixel_to_world_values([0, 1, 0], [0, 0, 1])
    assert east[1] < east[0]
    assert (north[2] - north[0]) * 3600 == pytest.approx(0.25, rel=1e-3)
    pixels = read_pixels(card)
    np.testing.assert_allclose(pixels.counts, linear, rtol=1e-4, atol=1e-3)
    part = read_pixels(card, (slice(2, 10), slice(1, 9)))
    np.testing.assert_array_equal(part.counts, pixels.counts[2:10, 1:9])
    assert part.origin == (2, 1)


def test_compressed_files_with_an_empty_primary_hdu_are_read(tmp_path):
    values = np.random.default_rng(5).normal(0, 5, (300, 400)).astype(np.float32)
    path = write_stack(tmp_path / "plain", values, crpix=(11760.0, 242.0))
    header = fits.getheader(path)
    packed = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(values, header, compression_type="RICE_1")])
    (tmp_path / "packed").mkdir()
    packed.writeto(tmp_path / "packed" / (path.name + ".fz"))
    mask = fits.CompImageHDU(np.full((300, 400), BITS["SPIKE"], np.uint16), compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), mask]).writeto(
        tmp_path / "packed" / path.name.replace(".fits", ".mask.fits")
    )
    (card,) = find_skycells(tmp_path / "packed", "r")
    assert card.shape == (300, 400)
    pixels = read_pixels(card)
    assert (pixels.mask == BITS["SPIKE"]).all()
    assert not pixels.bad.any()
    assert abs(pixels.counts - values).max() < 1
    assert np.median(pixels.variance) == pytest.approx(25, rel=0.05)  # no wt: from the scatter


def test_sixteen_bit_integers_with_a_blank_value_are_read(tmp_path):
    # As the archive has its stacks: RICE tiles of int16, scaled, asinh values in them.
    linear = np.random.default_rng(7).normal(0, 30, (200, 300))
    values = np.arcsinh(linear / 200) * 2.5 / np.log(10)
    raw = np.rint((values - 0.1) / 2e-4).astype(np.int16)
    raw[20, 30] = 32767
    path = write_stack(tmp_path, values, crpix=(11760.0, 242.0))
    hdu = fits.CompImageHDU(raw, fits.getheader(path), compression_type="RICE_1")
    cards = {"BSCALE": 2e-4, "BZERO": 0.1, "BLANK": 32767, "BSOFTEN": 100.0, "BOFFSET": 0.0}
    hdu.header.update(cards)
    hdu.header["HIERARCH FPA.FILTERID"] = "r.00000"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)
    pixels = read_pixels(read_card(path), (slice(10, 60), slice(5, 80)))
    assert pixels.mask[10, 25] == BITS["BLANK"]
    assert pixels.bad.sum() == 1
    expected = linear[10:60, 5:80]
    good = ~pixels.bad
    np.testing.assert_allclose(pixels.counts[good], expected[good], atol=0.03)


def test_the_bad_set_is_that_of_the_pipeline():
    assert BAD == 8575
    usable = {name for name, bit in BITS.items() if not bit & BAD} - {"MARK"}
    assert usable == {"SUSPECT", "SPIKE", "GHOST", "STREAK", "STARCORE", "CONV.POOR"}


def test_what_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        find_skycells(tmp_path / "none", "r")
    with pytest.raises(InputError, match=r"holds no PS1 stack image of band r \(bands found: none\)"):
        find_skycells(tmp_path, "r")
    path = write_stack(tmp_path / "a", np.ones(FINE), crpix=crpix_of())
    with pytest.raises(InputError, match=r"of band g \(bands found: r\)"):
        find_skycells(tmp_path / "a", "g")
    card = read_card(path)
    with pytest.raises(InputError, match="none of the 1 skycells overlaps with the frame"):
        warp([card], sensor_wcs(SHAPE, ra=10.0), SHAPE)
    assert overlapping([card], sensor_wcs(SHAPE, ra=RA + 180, dec=-2.2), SHAPE) == ()
    blank = write_stack(tmp_path / "b", np.full(FINE, np.nan), crpix=crpix_of())
    with pytest.raises(InputError, match=r"all pixels of skycell.1405.053 on the frame are masked"):
        warp([read_card(blank)], sensor_wcs(SHAPE), SHAPE)
    mask = np.zeros((5, 5), np.uint16)
    other = write_stack(tmp_path / "c", np.ones(FINE), crpix=crpix_of(), mask=mask)
    with pytest.raises(InputError, match=r"mask.fits: has shape \(5, 5\), its image \(800, 1000\)"):
        read_pixels(read_card(other))
    bare = write_stack(tmp_path / "d", np.ones(FINE), crpix=crpix_of())
    fits.delval(bare, "EXPTIME")
    with pytest.raises(InputError, match="EXPTIME is None; PS1 stacks need it"):
        read_card(bare)
    fits.delval(path, "CTYPE1")
    with pytest.raises(InputError, match="has no celestial WCS"):
        read_card(path)
    with pytest.raises(InputError, match=r"max_bad_share is 1.5"):
        WarpConfig(max_bad_share=1.5)
    with pytest.raises(InputError, match="smoothing_fwhm_pix is -1"):
        WarpConfig(smoothing_fwhm_pix=-1)


def test_a_cubic_follows_the_projections_to_a_thousandth_of_a_pixel():
    # The corner of a projection cell, 2.7 deg from its tangent point, is the worst case.
    cell = skycell(1405, 99)
    middle = cell.wcs().pixel_to_world_values(3000, 3000)
    wcs = sensor_wcs((1128, 2000), *middle, angle_deg=20)
    transform = transform_from_wcs(cell.wcs(), wcs, cell.shape)
    x, y = np.random.default_rng(6).uniform(0, 6200, (2, 500))
    exact = wcs.world_to_pixel_values(*cell.wcs().pixel_to_world_values(x, y))
    assert abs(np.array(transform.apply(x, y)) - exact).max() < 1e-3
