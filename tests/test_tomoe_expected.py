"""Sources that a subtraction leaves something of: the S/N they are chosen by, and who they are."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from _tomoe_scene import GaussianPsf, image_of, scene
from scipy import ndimage

import catalogs
from rbsim import schema
from rbsim.emulate.tomoe import artefacts
from rbsim.emulate.tomoe.artefacts.clouds import clouds
from rbsim.emulate.tomoe.artefacts.colour_residuals import colour_residuals
from rbsim.emulate.tomoe.artefacts.dipoles import dipoles
from rbsim.emulate.tomoe.artefacts.expected import rows_of, snr_of
from rbsim.emulate.tomoe.artefacts.ghosts import ghosts
from rbsim.emulate.tomoe.artefacts.large_galaxies import large_galaxies
from rbsim.emulate.tomoe.artefacts.low_snr import noise_peaks
from rbsim.emulate.tomoe.artefacts.proper_motion import proper_motion
from rbsim.emulate.tomoe.artefacts.psf_mismatch import psf_mismatch
from rbsim.emulate.tomoe.artefacts.saturated_cores import saturated_cores
from rbsim.emulate.tomoe.artefacts.settings import artefacts_from_tables
from rbsim.emulate.tomoe.artefacts.tracking_errors import ellipticity, tracking_errors
from rbsim.emulate.tomoe.artefacts.variables import variables
from rbsim.errors import InputError

SETTINGS = artefacts.load_artefacts()
NOISE = SETTINGS.noise


def test_the_expected_snr_is_that_of_a_matched_filter_on_noisy_images():
    rng, unit = np.random.default_rng(1), scene().psf.stamp(50, 50, half_pix=12)
    star = 300.0
    expected = 17 * (12.0 + star * unit)
    images = rng.poisson(expected, (3000, 25, 25)) + rng.normal(0, 2 * np.sqrt(17), (3000, 25, 25)) - 17 * 12
    flux = (images * unit).sum(axis=(1, 2)) / np.sum(unit**2)
    got = snr_of(scene(), NOISE, np.array([star]), np.array([star]))[0]
    assert flux.mean() / flux.std() == pytest.approx(got, rel=0.05)


def test_colours_leave_light_of_their_sign():
    # Twenty bright stars make the flux scale and have the mean colour; a saturated one makes nothing.
    bright = np.linspace(3e4, 5e4, 20)
    stars = scene(
        star_x_pix=np.concatenate([[100.0, 200.3, 350.0], np.linspace(10, 390, 20)]),
        star_y_pix=np.full(23, 50.0),
        star_e=np.concatenate([[3.0, 5e3, 1e6], bright]),
        star_colour_mag=np.concatenate([[0.1, 0.4, 0.3], np.full(20, 0.1)]),
        star_pm_pix=np.zeros(23),
    )
    found = colour_residuals(stars, NOISE)
    mean = 0.1 + 0.3 * 5e3 / (20 * 3e4 + 5e3)
    np.testing.assert_allclose(found.strength, 10 ** (-0.4 * (stars.star_colour_mag - mean)) - 1, atol=1e-4)
    # 0.3 mag fainter in the clear band than the reference and the scale say.
    left = 5e3 * (1 - 10 ** (0.4 * (0.4 - mean)))
    assert found.snr[1] == pytest.approx(snr_of(stars, NOISE, np.array([left]), np.array([5e3]))[0], rel=1e-3)
    assert found.snr[1] < -50
    assert [row.x_pix for row in rows_of([found], (300, 400), least_snr=30)] == [350.0, 200.3]


@pytest.mark.parametrize("shift", [0.05, 0.3])
def test_shifts_leave_the_lobes_of_a_dipole(shift):
    moved = scene(star_pm_pix=np.full(3, shift))
    found = proper_motion(moved, NOISE)
    unit = moved.psf.stamp(50, 50, half_pix=12)
    pair = moved.psf.stamp(50 + shift, 50, half_pix=12) - unit
    lobe = ndimage.correlate(pair, unit, mode="constant").max() / np.sum(unit**2)
    empty = snr_of(moved, NOISE, np.array([lobe * 100]), np.array([100.0]))[0]
    # `LOBE` is that of a Moffat PSF; a Gaussian has a quarter more.
    assert found.snr[0] == pytest.approx(empty / 1.26, rel=0.1)
    left = dataclasses.replace(SETTINGS.dipole, left_pix=shift)
    np.testing.assert_allclose(dipoles(moved, left, NOISE).snr, found.snr)


def test_galaxies_of_another_colour_than_the_stars_leave_more():
    plain = large_galaxies(scene(), SETTINGS.large_galaxy, NOISE)
    red = large_galaxies(scene(galaxy_colour_mag=np.array([0.2])), SETTINGS.large_galaxy, NOISE)
    assert red.snr[0] / plain.snr[0] == pytest.approx(np.hypot(0.02, 0.6 * (10**0.08 - 1)) / 0.02)
    np.testing.assert_array_equal(red.strength, plain.strength)


def test_only_a_psf_that_a_low_order_kernel_cannot_follow_is_a_mismatch():
    config = dataclasses.replace(SETTINGS.psf_mismatch, least_share=0.005)
    steady = psf_mismatch(scene(), config, NOISE)
    np.testing.assert_allclose(steady.strength, 0.005, rtol=1e-3)
    # Bright stars show their wings, which have no photon noise of the star.
    no_wings = psf_mismatch(scene(), dataclasses.replace(config, wing_share=0.0), NOISE)
    assert steady.snr[2] > no_wings.snr[2]
    empty = snr_of(scene(), NOISE, config.wing_share * scene().star_e, np.zeros(3))
    assert steady.snr[2] == pytest.approx(empty[2])
    wavy = scene(psf=GaussianPsf(change=0.05))
    found = psf_mismatch(wavy, config, NOISE)
    assert found.strength.max() > 5 * 0.005
    rigid = dataclasses.replace(config, kernel_order=0)
    assert psf_mismatch(wavy, rigid, NOISE).strength.mean() > found.strength.mean()


@pytest.mark.parametrize("stretch", [1.0, 1.05, 1.2])
def test_the_ellipticity_of_a_psf_is_measured(stretch):
    psf = GaussianPsf(stretch=stretch)
    e = ellipticity(psf.stamp(50, 50, half_pix=12))
    # Axes in x and y; the pixel makes both a little rounder.
    assert e == pytest.approx((stretch**2 - 1) / (stretch**2 + 1), abs=0.015)
    found = tracking_errors(scene(psf=psf), SETTINGS.tracking_error, NOISE)
    assert (len(found.snr) > 0) == (e > SETTINGS.tracking_error.least_ellipticity)


def test_saturated_cores_count_their_pixels():
    layer = saturated_cores(scene(), SETTINGS.saturated_core, NOISE)
    (row,) = layer.rows
    image = 12 + scene().psf.draw((300, 400), scene().star_x_pix, scene().star_y_pix, scene().star_e)
    assert row.strength == pytest.approx(np.count_nonzero(image > 0.9 * 6000), rel=0.2)
    assert (row.x_pix, row.y_pix) == (320.0, 250.6)


def test_noise_has_as_many_peaks_as_a_gaussian_field():
    # Wide enough for pixels not to miss the top of a peak.
    rng, profile = np.random.default_rng(5), GaussianPsf(fwhm_pix=6.0).stamp(50, 50, half_pix=14).sum(axis=0)
    peaks, n = 0, 1500
    for _ in range(3):
        image = ndimage.convolve1d(rng.normal(size=(n, n)), profile, axis=0)
        image = ndimage.convolve1d(image, profile, axis=1) / np.sum(profile**2)
        peaks += np.count_nonzero((image == ndimage.maximum_filter(image, 3)) & (image > 3.5))
    wanted = 3 * noise_peaks(np.array([3.5]), n * n, fwhm_pix=6.0)[0]
    assert peaks == pytest.approx(wanted, abs=0.1 * wanted + 3 * np.sqrt(wanted))


def test_clouds_have_mean_one_and_name_the_stars_that_a_smooth_scale_misses():
    sure = dataclasses.replace(
        SETTINGS.clouds,
        probability=1.0,
        rms_low_mag=0.05,
        rms_high_mag=0.05,
        scale_low_pix=80,
        scale_high_pix=200,
    )
    transparency, found = clouds(scene(), sure, NOISE, rng=np.random.default_rng(1))
    assert transparency.mean() == pytest.approx(1)
    assert np.std(2.5 * np.log10(transparency)) == pytest.approx(0.05, rel=0.5)
    at_star = transparency[150, 200] - 1
    assert found.strength[1] == pytest.approx(at_star, abs=0.1)
    assert np.abs(found.strength).max() > 0.005
    # Waves much longer than the sensor are followed by the kernel.
    smooth = dataclasses.replace(sure, scale_low_pix=3000, scale_high_pix=9000)
    _, few = clouds(scene(), smooth, NOISE, rng=np.random.default_rng(1))
    assert np.abs(few.strength).max() < 0.1 * np.abs(found.strength).max()
    never = dataclasses.replace(sure, probability=0.0)
    assert clouds(scene(), never, NOISE, rng=np.random.default_rng(1))[0] is None


def test_a_ghost_holds_its_share_and_moves_against_the_star():
    config = dataclasses.replace(
        SETTINGS.ghost, share_low=1e-3, share_high=1e-3, radius_low_pix=30, radius_high_pix=30,
        centre_scatter_pix=0.0, halo_share=0.0, least_noise_share=0.0,
    )  # fmt: skip
    star = {"star_y_pix": np.array([150.0]), "star_e": np.array([1e6])}
    star |= {"star_colour_mag": np.zeros(1), "star_pm_pix": np.zeros(1)}
    where = []
    for x in (150.0, 250.0):
        layer = ghosts(
            scene(star_x_pix=np.array([x]), **star), config, NOISE, sensor_rng=np.random.default_rng(1)
        )
        assert layer.steady_e.sum() == pytest.approx(1e3, rel=0.03)
        (row,) = [r for r in layer.rows if r.strength]
        assert row.length_pix == pytest.approx(60)
        columns = layer.steady_e.sum(axis=0)
        assert (columns * np.arange(400)).sum() / columns.sum() == pytest.approx(row.x_pix, abs=0.2)
        # The middle of the ring is dark.
        assert layer.steady_e[150, round(row.x_pix)] < 0.05 * layer.steady_e.max()
        where.append(row.x_pix)
    assert where[1] - where[0] == pytest.approx(config.magnification * 100)


def test_all_layers_are_the_same_for_the_same_streams_and_share_what_is_fixed():
    rates = {"hot_pixel": 3.0, "cosmic_ray": 50.0, "satellite_glint": 1e4}
    settings = artefacts.load_artefacts(rates)

    def layers(own):
        return artefacts.all_layers(
            scene(), settings, sensor_rng=np.random.default_rng(1), rng=np.random.default_rng(own)
        )

    first, again, other = layers(2), layers(2), layers(3)
    for a, b in zip(first, again, strict=True):
        # A row without length has NaN there, which equals nothing.
        assert repr(a.rows) == repr(b.rows)
        np.testing.assert_array_equal(image_of(a, (300, 400), 4), image_of(b, (300, 400), 4))
    assert repr([r.rows for r in first]) != repr([r.rows for r in other])
    classes = {row.artefact for layer in first for row in layer.rows}
    assert classes <= set(artefacts.STRENGTHS)
    assert {"saturated_core", "colour_residual", "low_snr", "mask_in_subtraction"} <= classes
    # A class draws the same whatever the others draw.
    without = artefacts.all_layers(
        scene(),
        artefacts.with_rates(settings, {"satellite_glint": 0.0, "hot_pixel": 0.0}),
        sensor_rng=np.random.default_rng(1),
        rng=np.random.default_rng(2),
    )
    assert repr(without[3].rows) == repr(first[3].rows)
    assert first[3].rows[0].artefact == "cosmic_ray"


def test_every_class_is_in_the_schema_and_the_settings_are_checked():
    codes = {kind.name for kind in schema.ARTEFACTS}
    assert set(artefacts.STRENGTHS) == codes
    tables = catalogs.read_toml("artefacts.toml")
    with pytest.raises(InputError, match=r"artefacts.toml ghost: missing hole; there must be rate_factor"):
        artefacts_from_tables({**tables, "ghost": {k: v for k, v in tables["ghost"].items() if k != "hole"}})
    with pytest.raises(InputError, match=r"artefacts.toml: unknown gnome"):
        artefacts_from_tables({**tables, "gnome": {}})
    with pytest.raises(InputError, match="per_mpix is -1; it must be a number, 0 or more"):
        artefacts_from_tables({**tables, "hot_pixel": {**tables["hot_pixel"], "per_mpix": -1}})
    with pytest.raises(InputError, match=r"kernel_order is 2.5; it must be a whole number"):
        artefacts_from_tables({**tables, "clouds": {**tables["clouds"], "kernel_order": 2.5}})
    with pytest.raises(InputError, match="artefact 'low_snr' has no rate; those with one are hot_pixel"):
        artefacts.load_artefacts({"low_snr": 2})
    with pytest.raises(InputError, match="rate factor -1 is not 0 or a positive number"):
        artefacts.load_artefacts({"ghost": -1})


def test_variables_and_masks_of_the_reference_name_their_stars():
    assert len(variables(scene(), NOISE).snr) == 0
    # The star above its mean is a transient of the truth table, and none of these.
    changing = scene(star_change_e=np.array([50.0, -900.0, -1.0]))
    (row,) = rows_of([variables(changing, NOISE)], (300, 400), least_snr=3)
    assert (row.artefact, row.x_pix, row.strength) == ("variable", 200.3, -900.0 * 17)
    layers = artefacts.all_layers(
        changing, SETTINGS, sensor_rng=np.random.default_rng(1), rng=np.random.default_rng(2)
    )
    assert row in [row for layer in layers for row in layer.rows]
    masks = artefacts.mask_in_reference(scene(), SETTINGS.mask_in_reference).rows
    assert [row.x_pix for row in masks] == [320.0, 200.3]
    assert masks[0].strength > masks[1].strength > 0


def test_the_docs_name_every_class():
    page = (Path(__file__).parents[1] / "docs" / "artefacts.md").read_text()
    for name in artefacts.STRENGTHS:
        assert f"| `{name}` |" in page
