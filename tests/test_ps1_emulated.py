"""Emulated PS1 stacks: depth, seeing, epoch, galaxies and masks as asked; files as in the archive.

And the mode that draws the warped reference at once agrees with emulating skycells and warping them.
"""

from dataclasses import replace

import numpy as np
import pytest
from _ps1_field import galaxies, no_galaxies, sensor_wcs, stars
from astropy.io import fits

from rbsim.emulate.tomoe.ps1_files import write_skycell, write_warped
from rbsim.emulate.tomoe.ps1_images import (
    SkycellPart,
    draw_warped,
    emulate_skycells,
    skycell_parts,
    zero_point_mag,
)
from rbsim.emulate.tomoe.ps1_light import Grid, Points, draw, galaxy_points
from rbsim.emulate.tomoe.ps1_settings import Ps1Settings
from rbsim.errors import InputError
from rbsim.frame import read_frame
from rbsim.ps1.mask_bits import BITS
from rbsim.ps1.skycell import find_skycells, read_card, read_pixels
from rbsim.ps1.tessellation import skycell
from rbsim.ps1.warp import warp
from rbsim.schema import MASK

SHAPE = (140, 170)
WCS = sensor_wcs(SHAPE, angle_deg=3.0)
CLEAN = Ps1Settings(
    fwhm_scatter=0.0,
    epoch_scatter_yr=0.0,
    n_inputs_scatter=0.0,
    gaps_per_deg2=0,
    holes_per_deg2=0,
    cosmic_rays_per_deg2=0,
)
ZERO = zero_point_mag(CLEAN)


def part_of(shape=(500, 600)):
    """A piece of skycell.1405.053 around the middle of the sensor."""
    cell = skycell(1405, 53)
    x, y = cell.wcs().world_to_pixel_values(*WCS.pixel_to_world_values(85.0, 70.0))
    y0, x0 = int(y) - shape[0] // 2, int(x) - shape[1] // 2
    own = cell.wcs().slice((slice(y0, None), slice(x0, None)))
    return SkycellPart(cell.name, own, shape)


def emulate(some_stars, some_galaxies, settings=CLEAN, *, seed=1, parts=None, epoch_yr=2012.3):
    rng = np.random.default_rng(seed)
    return list(
        emulate_skycells(
            some_stars, some_galaxies, parts or [part_of()], rng=rng, epoch_yr=epoch_yr, settings=settings
        )
    )


def centroid(image, x, y, radius):
    yy, xx = np.indices(image.shape)
    inside = np.hypot(yy - y, xx - x) < radius
    total = image[inside].sum()
    return (xx[inside] * image[inside]).sum() / total, (yy[inside] * image[inside]).sum() / total, total


def test_points_keep_flux_place_and_width_at_any_fraction_of_a_pixel():
    grid = Grid(part_of().wcs, (200, 220))
    x, y = np.array([60.0, 60.25, 120.5, 160.9]), np.array([50.0, 150.5, 90.25, 140.7])
    image = draw(Points(x, y, np.full(4, 1000.0)), grid, fwhm_arcsec=1.2)
    assert image.sum() == pytest.approx(4000, rel=2e-3)  # the rest is beyond the border
    for one_x, one_y in zip(x, y, strict=True):
        at_x, at_y, total = centroid(image, one_x, one_y, 14)
        assert (at_x, at_y) == pytest.approx((one_x, one_y), abs=0.02)
        # Encircled light of a Moffat: 1 - (1 + r^2 / alpha^2)^(1 - beta), beta = 3.
        alpha = 1.2 / 0.25 / (2 * np.sqrt(2 ** (1 / 3) - 1))
        assert total == pytest.approx(1000 * (1 - (1 + (14 / alpha) ** 2) ** -2), rel=0.01)
    # Sampled directly, the slow way.
    yy, xx = np.indices(grid.shape)
    slow = sum(
        1000 * 2 / (np.pi * alpha**2) * (1 + ((xx - a) ** 2 + (yy - b) ** 2) / alpha**2) ** -3
        for a, b in zip(x, y, strict=True)
    )
    assert abs(image - slow).max() < 2e-3 * slow.max()


def test_a_galaxy_has_its_half_light_radius_and_shape():
    grid = Grid(part_of().wcs, (500, 600))
    cell = part_of().wcs
    some = galaxies([300.0], [250.0], [16.0], cell, radius_arcsec=6.0)
    points = galaxy_points(some, np.array([1e5]), np.array([16.0]), grid)
    radius = np.hypot(points.x_pix - 300, points.y_pix - 250) * 0.25
    assert np.sort(radius)[len(radius) // 2] == pytest.approx(6.0, rel=0.02)
    assert points.counts.sum() == pytest.approx(1e5, rel=0.02)
    light = draw(points, grid, fwhm_arcsec=1.2)
    assert light.sum() == pytest.approx(1e5, rel=0.02)
    # An exponential disc falls by e per scale length, smoothly: no single points are seen.
    rows = light[250 - 2 : 250 + 3, 300:].mean(axis=0)
    scale = 6.0 / 1.678 / 0.25
    slope = np.polyfit(np.arange(20, 80), np.log(rows[20:80]), 1)[0]
    assert slope == pytest.approx(-1 / scale, rel=0.06)
    east = galaxies([300.0], [250.0], [16.0], cell, radius_arcsec=6.0, shear1=0.3)
    wide = galaxy_points(east, np.array([1e5]), np.array([16.0]), grid)
    ratio = (wide.x_pix - 300).std() / (wide.y_pix - 250).std()
    assert ratio == pytest.approx(1.3 / 0.7, rel=0.03)


def test_the_depth_is_that_of_a_point_source_at_five_sigma():
    (cell,) = emulate(stars([], [], [], WCS), no_galaxies(WCS), parts=[part_of((700, 800))])
    size = 41
    yy, xx = np.indices((size, size)) - size // 2
    alpha = CLEAN.fwhm_arcsec / 0.25 / (2 * np.sqrt(2 ** (1 / 3) - 1))
    psf = (1 + (xx**2 + yy**2) / alpha**2) ** -3.0
    psf /= psf.sum()
    filtered = np.fft.irfft2(
        np.fft.rfft2(cell.counts) * np.fft.rfft2(psf, s=cell.counts.shape), s=cell.counts.shape
    )
    flux_error = filtered.std() / (psf**2).sum()
    assert ZERO - 2.5 * np.log10(5 * flux_error) == pytest.approx(23.2, abs=0.05)
    # The variance is that of single pixels, whose noise is correlated.
    assert cell.counts.std() == pytest.approx(np.sqrt(cell.variance.mean()), rel=0.02)
    assert np.mean(cell.counts[:, 1:] * cell.counts[:, :-1]) > 0.2 * cell.counts.var()


def test_skycells_differ_in_exposure_and_their_zero_points_tell():
    field = stars([85.0], [70.0], [16.0], WCS)
    settings = replace(CLEAN, n_inputs_scatter=0.3)
    cells = emulate(field, no_galaxies(WCS), settings, parts=[part_of((220, 240))] * 6)
    assert len({cell.exposure_s for cell in cells}) > 2
    for cell in cells:
        assert cell.exposure_s == 40 * cell.n_inputs.max()
        x, y = cell.part.wcs.world_to_pixel_values(field.ra_deg[0], field.dec_deg[0])
        total = centroid(cell.counts, float(x), float(y), 24)[2]
        assert 25 + 2.5 * np.log10(cell.exposure_s / total) == pytest.approx(16, abs=0.02)
        # Counts grow with the exposure, their noise with its root.
        noise = np.sqrt(np.median(cell.variance))
        expected = np.sqrt(np.median(cells[0].variance) * cell.exposure_s / cells[0].exposure_s)
        assert noise == pytest.approx(expected, rel=0.01)


def test_stars_have_their_r_magnitude_at_the_time_of_ps1():
    # 500 mas a year to the north-east, for 10.7 years.
    one = stars([80.0], [70.0], [16.0], WCS, colour_mag=0.4, pm_ra=500.0, pm_dec=300.0)
    (cell,) = emulate(one, no_galaxies(WCS), epoch_yr=2023.0)
    x, y = cell.part.wcs.world_to_pixel_values(
        one.ra_deg[0] - 10.7 * 0.5 / 3600 / np.cos(np.radians(one.dec_deg[0])),
        one.dec_deg[0] - 10.7 * 0.3 / 3600,
    )
    at_x, at_y, total = centroid(cell.counts, float(x), float(y), 24)
    assert (at_x, at_y) == pytest.approx((float(x), float(y)), abs=0.05)
    assert ZERO - 2.5 * np.log10(total) == pytest.approx(15.6, abs=0.02)


def test_bright_stars_leave_the_masks_of_ps1():
    field = stars([40.0, 130.0], [60.0, 80.0], [9.0, 18.0], WCS)
    settings = replace(CLEAN, ghost_mag=0.0)
    (cell,) = emulate(field, no_galaxies(WCS), settings)
    x, y = (int(np.rint(v)) for v in cell.part.wcs.world_to_pixel_values(field.ra_deg[0], field.dec_deg[0]))
    assert cell.mask[y, x] & BITS["SAT"]
    assert cell.mask[y, x] & BITS["STARCORE"]
    saturated = (cell.mask & BITS["SAT"]) != 0
    assert np.isnan(cell.counts[saturated]).all()
    assert np.isfinite(cell.counts[~saturated]).all()
    assert (cell.mask & BITS["SPIKE"]).any()
    assert (cell.mask & BITS["CONV.POOR"]).any()
    faint = (int(np.rint(v)) for v in cell.part.wcs.world_to_pixel_values(field.ra_deg[1], field.dec_deg[1]))
    assert cell.mask[tuple(faint)[::-1]] == 0
    core = cell.rows[0]
    assert core.artefact == "mask_in_reference"
    assert (core.x_pix, core.y_pix) == pytest.approx((x, y), abs=0.6)
    assert core.strength == pytest.approx(saturated.sum() * (0.25 / 1.189) ** 2, rel=0.6)
    spikes = [row for row in cell.rows if np.isfinite(row.length_pix)]
    assert len(spikes) == 2
    assert all(row.strength < 0 for row in spikes)
    # Two magnitudes brighter: a larger hole.
    (brighter,) = emulate(stars([40.0], [60.0], [7.0], WCS), no_galaxies(WCS))
    assert ((brighter.mask & BITS["SAT"]) != 0).sum() > 1.5 * saturated.sum()


def test_flaws_come_at_their_rates_and_each_has_a_row():
    rates = {"gaps_per_deg2": 5e3, "holes_per_deg2": 2e4, "cosmic_rays_per_deg2": 3e4}
    (cell,) = emulate(stars([], [], [], WCS), no_galaxies(WCS), replace(CLEAN, **rates))
    area_deg2 = cell.counts.size * (0.25 / 3600) ** 2
    expected = 5.5e4 * area_deg2
    assert abs(len(cell.rows) - expected) < 5 * np.sqrt(expected)
    gap = (cell.mask & BITS["BLANK"]) != 0
    assert gap.any()
    assert np.isnan(cell.counts[gap]).all()
    assert (cell.n_inputs[gap] == 0).all()
    assert (cell.n_inputs[~gap] == CLEAN.n_inputs).all()
    assert (cell.mask & BITS["CR"]).any()
    assert (cell.mask & BITS["CONV.BAD"]).any()


def test_the_sky_round_large_galaxies_is_taken_too_low():
    quiet = replace(CLEAN, depth_mag=27.0)
    small = galaxies([85.0], [70.0], [14.0], WCS, radius_arcsec=2.0)
    large = galaxies([85.0], [70.0], [14.0], WCS, radius_arcsec=20.0)
    for some, settings, below in [(small, quiet, False), (large, quiet, True)]:
        (cell,) = emulate(stars([], [], [], WCS), some, settings, parts=[part_of((900, 900))])
        far = cell.counts[430:470, 30:70]  # 100" from the galaxy, 5 half-light radii
        rows = [row for row in cell.rows if row.artefact == "large_galaxy"]
        assert (far.mean() < -3 * far.std() / np.sqrt(far.size)) == below
        assert bool(rows) == below


def test_the_same_seed_gives_the_same_bits_and_skycells_do_not_depend_on_each_other():
    field = stars([40.0, 90.0], [60.0, 90.0], [12.0, 17.0], WCS)
    parts = [part_of((200, 220)), part_of((180, 200))]
    first, second = emulate(field, no_galaxies(WCS), Ps1Settings(), parts=parts)
    again = emulate(field, no_galaxies(WCS), Ps1Settings(), parts=parts)
    np.testing.assert_array_equal(first.counts, again[0].counts)
    np.testing.assert_array_equal(second.mask, again[1].mask)
    alone = emulate(field, no_galaxies(WCS), Ps1Settings(), parts=parts[:1])[0]
    np.testing.assert_array_equal(alone.counts, first.counts)
    other = emulate(field, no_galaxies(WCS), Ps1Settings(), seed=2, parts=parts)[0]
    assert not np.array_equal(np.nan_to_num(other.counts), np.nan_to_num(first.counts))


def test_the_files_look_like_the_archive_s_and_are_read_back(tmp_path):
    field = stars([40.0, 90.0], [60.0, 90.0], [10.0, 17.0], WCS)
    (cell,) = emulate(field, no_galaxies(WCS))
    path = write_skycell(tmp_path, cell)
    assert path.name == "rings.v3.skycell.1405.053.stk.r.unconv.fits"
    with fits.open(path) as hdus:
        assert hdus[0].header["NAXIS"] == 0
        header = hdus[1].header
        assert header["PC001001"] == -1
        assert "RADESYS" not in header
        assert "PC1_1" not in header
        assert header["BSOFTEN"] > 0
        assert header["BITPIX"] == 16
        assert np.nanmax(hdus[1].data) < 20  # asinh values
    (card,) = find_skycells(tmp_path, "r")
    assert set(card.companions) == {"mask", "wt", "num"}
    assert card.zero_point_mag == pytest.approx(ZERO)
    pixels = read_pixels(card)
    np.testing.assert_array_equal(pixels.mask & ~np.uint16(BITS["BLANK"]), cell.mask)
    good = ~pixels.bad
    noise = np.sqrt(cell.variance[good])
    assert abs((pixels.counts[good] - cell.counts[good]) / noise).max() < 0.3
    np.testing.assert_allclose(pixels.variance[good], cell.variance[good], rtol=0.05)
    at = cell.part.wcs.pixel_to_world_values([10, 500], [400, 20])
    np.testing.assert_allclose(card.wcs.pixel_to_world_values([10, 500], [400, 20]), at, atol=1e-9)
    assert not list(tmp_path.glob("*.tmp"))


def test_the_parts_of_skycells_cover_the_frames():
    big = sensor_wcs((1128, 2000), ra=333.05, dec=2.55)  # where skycells meet
    parts = skycell_parts([(big, (1128, 2000))])
    assert len(parts) >= 4
    x, y = np.random.default_rng(1).uniform(0, 1, (2, 2000)) * [[2000], [1128]] - 0.5
    sky = big.pixel_to_world_values(x, y)
    covered = np.zeros(len(x), bool)
    for part in parts:
        px, py = part.wcs.world_to_pixel_values(*sky)
        covered |= (px > 0) & (py > 0) & (px < part.shape[1] - 1) & (py < part.shape[0] - 1)
    assert covered.all()
    assert sum(part.shape[0] * part.shape[1] for part in parts) < 1.6 * 51e6


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same field, warped from skycells and drawn at once, several times."""
    rates = {"holes_per_deg2": 2e4, "cosmic_rays_per_deg2": 9e3}
    settings = replace(CLEAN, **rates)
    rng = np.random.default_rng(8)
    n = 60
    mag = np.concatenate([[9.0, 11.0, 12.5, 13.3], rng.uniform(15, 21, n - 4)])
    field = stars(rng.uniform(8, SHAPE[1] - 8, n), rng.uniform(8, SHAPE[0] - 8, n), mag, WCS)
    some = galaxies(rng.uniform(8, 160, 15), rng.uniform(8, 130, 15), rng.uniform(16, 20, 15), WCS, bulge=0.3)
    folder = tmp_path_factory.mktemp("cells")
    slow, fast = [], []
    for seed in range(4):
        parts = skycell_parts([(WCS, SHAPE)])
        for cell in emulate(field, some, settings, seed=seed, parts=parts, epoch_yr=2023.0):
            write_skycell(folder / str(seed), cell)
        slow.append(warp(find_skycells(folder / str(seed), "r"), WCS, SHAPE))
        fast.append(
            draw_warped(
                field,
                some,
                WCS,
                SHAPE,
                rng=np.random.default_rng(100 + seed),
                epoch_yr=2023.0,
                settings=settings,
            )
        )
    return field, slow, fast


def mean_of(many):
    """Mean of images where at least one has a value."""
    images = np.array([one.image for one in many])
    n = np.isfinite(images).sum(axis=0)
    return np.where(n > 0, np.nansum(images, axis=0) / np.maximum(n, 1), np.nan)


def test_drawn_at_once_or_warped_is_the_same_light(both):
    field, slow, fast = both
    assert fast[0].zero_point == pytest.approx(slow[0].zero_point_mag)
    mean_slow, mean_fast = (mean_of(many) for many in (slow, fast))
    assert np.isfinite(mean_slow).mean() > 0.95
    noise = np.sqrt(np.nanmedian(slow[0].variance) / 4)
    x, y = WCS.world_to_pixel_values(field.ra_deg, field.dec_deg)
    ratios, widths = [], []
    for at_x, at_y, mag in zip(x, y, field.mag, strict=True):
        box = np.s_[
            int(np.rint(at_y)) - 3 : int(np.rint(at_y)) + 4, int(np.rint(at_x)) - 3 : int(np.rint(at_x)) + 4
        ]
        one, other = mean_slow[box], mean_fast[box]
        if 15 <= mag < 18 and one.shape == (7, 7) and np.isfinite(one + other).all():
            ratios.append(other.sum() / one.sum())
            widths.append(np.abs(one - other).max() / one.max())
    assert len(ratios) > 8
    assert np.median(ratios) == pytest.approx(1, abs=2e-3)
    assert np.median(widths) < 0.01
    rest = np.isfinite(mean_slow + mean_fast)
    difference = (mean_slow - mean_fast)[rest]
    assert abs(np.median(difference)) < 0.2 * noise


def test_drawn_at_once_or_warped_is_the_same_noise(both):
    _, slow, fast = both
    # Differences of realisations have only noise left.
    halves = [
        np.concatenate([(many[i].image - many[j].image)[None] for i, j in ((0, 1), (2, 3))]) / np.sqrt(2)
        for many in (slow, fast)
    ]
    figures = []
    for noise in halves:
        quiet = np.where(np.abs(noise) < 5 * 1.4826 * np.nanmedian(np.abs(noise)), noise, np.nan)
        lags = [np.nanmean(quiet[:, :, lag:] * quiet[:, :, : quiet.shape[2] - lag]) for lag in (0, 1, 2)]
        figures.append((np.sqrt(lags[0]), lags[1] / lags[0], lags[2] / lags[0]))
    assert figures[1][0] == pytest.approx(figures[0][0], rel=0.03)
    assert figures[1][1:] == pytest.approx(figures[0][1:], abs=0.03)
    assert 0.3 < figures[0][1] < 0.8  # smoothed by 1.6 px
    variances = [np.nanmedian([one.variance for one in many]) for many in (slow, fast)]
    assert variances[1] == pytest.approx(variances[0], rel=0.02)


def test_drawn_at_once_or_warped_is_the_same_masked_area(both):
    _, slow, fast = both
    bad = [np.mean([(one.mask & MASK["BAD"]) != 0 for one in many]) for many in (slow, fast)]
    assert 0.005 < bad[0] < 0.2
    assert bad[1] == pytest.approx(bad[0], rel=0.15)
    saturated = [(many[0].mask & MASK["SATURATED"]) != 0 for many in (slow, fast)]
    assert saturated[1].sum() == pytest.approx(saturated[0].sum(), rel=0.15)
    assert (saturated[0] & saturated[1]).sum() > 0.85 * saturated[0].sum()
    for one in fast:
        assert np.isnan(one.image[(one.mask & MASK["BAD"]) != 0]).all()
        inside = [row for row in one.rows if 0 <= row.x_pix < SHAPE[1] and 0 <= row.y_pix < SHAPE[0]]
        assert len(inside) > 10


def test_a_drawn_reference_is_read_as_one(tmp_path):
    shape = (160, 180)
    wcs = sensor_wcs(shape)
    rng = np.random.default_rng(9)
    field = stars(rng.uniform(5, 175, 80), rng.uniform(5, 155, 80), rng.uniform(12, 20, 80), wcs)
    warped = draw_warped(field, no_galaxies(wcs), wcs, shape, rng=rng, epoch_yr=2023.0)
    image, variance, mask, zero_point, rows = warped
    assert image.shape == variance.shape == mask.shape == shape
    write_warped(tmp_path / "ps1" / "ref.fits", warped, wcs, field="J2210+0212", sensor=111)
    frame = read_frame(tmp_path / "ps1" / "ref.fits")
    assert frame.variance_given
    assert frame.sensor == 111
    assert frame.field == "J2210+0212"
    assert frame.zero_point_mag == pytest.approx(zero_point)
    assert frame.zero_point_calibrated
    np.testing.assert_array_equal(frame.bad, (mask & MASK["BAD"]) != 0)
    assert frame.saturated.sum() >= ((mask & MASK["SATURATED"]) != 0).sum() * 0.9
    assert rows


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="exposure_s is 0; give a positive number"):
        Ps1Settings(exposure_s=0)
    with pytest.raises(InputError, match=r"noise_correlation is 0.4; give 0 to 0.25"):
        Ps1Settings(noise_correlation=0.4)
    with pytest.raises(InputError, match=r"oversubtraction is 2; give a share"):
        Ps1Settings(oversubtraction=2)


def test_the_card_of_an_emulated_part_has_its_own_pixels(tmp_path):
    part = part_of((120, 130))
    (cell,) = emulate(stars([], [], [], WCS), no_galaxies(WCS), parts=[part])
    card = read_card(write_skycell(tmp_path, cell))
    assert card.shape == (120, 130)
    full = skycell(1405, 53).wcs().pixel_to_world_values(0.0, 0.0)
    origin = part.wcs.world_to_pixel_values(*full)
    assert card.wcs.world_to_pixel_values(*full) == pytest.approx(tuple(float(v) for v in origin), abs=1e-4)
