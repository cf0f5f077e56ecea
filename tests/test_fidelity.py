"""Fidelity: pairs that differ in nothing but their origin, fluxes that are there, a report that is honest."""

import json
from dataclasses import replace

import numpy as np
import pytest
from _stellar_frames import FWHM_PIX, GAIN, OPTIONS, SHAPE, tasks_of, write_frames
from scipy.stats import kstest
from typer.testing import CliRunner

from cli import app
from rbsim import fidelity_photometry as photometry_module
from rbsim import psf as psf_model
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.fidelity import run_fidelity
from rbsim.fidelity_facts import control_facts, headline
from rbsim.fidelity_gather import N_FOLDS, frame_stars, identify, load, sizes, survey
from rbsim.fidelity_photometry import (
    aperture_weights,
    concatenate,
    digitisation_variance,
    measure_photometry,
    summary,
)
from rbsim.fidelity_sample import (
    REACH_RADII,
    SNR_BINS,
    lights_at,
    pair_stars,
    selected,
    widened,
    without_photon_noise,
)
from rbsim.fidelity_stamps import channels, fit_stamps
from rbsim.inject import inject_frame
from rbsim.seeding import stream


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("stars"), n_frames=2)


@pytest.fixture(scope="module")
def surveyed(paths):
    found, failed = survey(tasks_of(paths), OPTIONS, None, lambda *_: None)
    assert not failed
    return found


@pytest.fixture(scope="module")
def names(surveyed):
    return identify(surveyed, rng=stream(1, "split"))


@pytest.fixture(scope="module")
def stars(surveyed, names):
    """The first frame with its PSFs and selected stars."""
    half, isolation = sizes(surveyed)
    return frame_stars(
        surveyed[0],
        load(surveyed[0].task, OPTIONS, None),
        names.star[0],
        names.fold[0],
        half=half,
        isolation_pix=isolation,
        n_most=1000,
        psf_order=2,
        rng=stream(1, "thin"),
    )


@pytest.fixture(scope="module")
def pairs(stars):
    return pair_stars(stars, psf=stars.psf, rng=stream(1, "place"))


@pytest.fixture(scope="module")
def photometry(stars):
    parts = [
        measure_photometry(stars.frame, stars.psf, stars.sources, n_stars=60, rng=stream(1, "flux", k))
        for k in range(12)
    ]
    return concatenate(parts)


def test_a_star_keeps_its_identity_and_fold_from_frame_to_frame(surveyed, names):
    # The second frame is shifted by 3.3 and -2.6 px.
    first, second = surveyed
    x, y = first.sources.x_pix + 3.3, first.sources.y_pix - 2.6
    gap = np.hypot(x[:, None] - second.sources.x_pix, y[:, None] - second.sources.y_pix)
    here, there = np.nonzero(gap < 0.5)
    assert len(here) > 80
    assert np.array_equal(names.star[0][here], names.star[1][there])
    assert np.array_equal(names.fold[0][here], names.fold[1][there])
    assert len(np.unique(names.star[0])) == len(names.star[0])  # and no two stars share one
    share = np.bincount(names.fold[0], minlength=N_FOLDS) / len(names.fold[0])
    assert share.min() > 0.1


def test_partners_are_as_bright_near_and_passed_the_same_selection(stars, pairs):
    assert len(pairs.star) > 0.8 * len(stars.rows)
    at = np.searchsorted(stars.star[np.argsort(stars.star)], pairs.star)
    rows = stars.rows[np.argsort(stars.star)[at]]
    gap = np.hypot(
        pairs.injected.x_pix - stars.sources.x_pix[rows], pairs.injected.y_pix - stars.sources.y_pix[rows]
    )
    assert gap.max() < REACH_RADII * stars.isolation_pix + 2
    assert gap.min() > stars.isolation_pix - 2
    # Equally bright to the noise of the two, at least that of the sky, and in the same bin.
    ratio = np.log(pairs.injected_snr / pairs.real_snr)
    assert abs(np.mean(ratio)) < 0.03
    spread = np.abs(ratio * pairs.real_snr)
    assert np.median(spread) < 1.5
    assert np.mean(spread > 6) < 0.1
    for low, high in SNR_BINS:
        inside = (pairs.real_snr >= low) & (pairs.real_snr < high)
        assert np.all((pairs.injected_snr[inside] >= low) & (pairs.injected_snr[inside] < high))
    phases = np.r_[pairs.injected.x_pix % 1, pairs.injected.y_pix % 1]
    assert kstest(phases, "uniform").pvalue > 0.001


def test_selection_refuses_neighbours_saturation_and_the_edge(stars):
    sources, ok = stars.sources, stars.rows[0]
    rule = {"isolation_pix": stars.isolation_pix, "half": stars.half}
    assert selected(stars.frame, sources, stars.star_radius_pix, **rule)[ok]
    for name, value in (("x_pix", 1.0), ("saturated", True), ("snr", 5.0), ("radius_half_pix", 9.0)):
        column = getattr(sources, name).copy()
        column[ok] = value
        assert not selected(stars.frame, replace(sources, **{name: column}), stars.star_radius_pix, **rule)[
            ok
        ], name
    x, y = sources.x_pix.copy(), sources.y_pix.copy()
    other = stars.rows[1]
    x[other], y[other] = x[ok] + stars.isolation_pix - 1, y[ok]
    assert not selected(stars.frame, replace(sources, x_pix=x, y_pix=y), stars.star_radius_pix, **rule)[ok]


def test_the_fit_recovers_flux_and_centre_of_injected_stars(stars):
    rng = stream(1, "place", 3)
    n = 40
    x = 25 + 45 * (np.arange(n) % 8) + rng.uniform(0, 1, n)
    y = 25 + 65 * (np.arange(n) // 8) + rng.uniform(0, 1, n)
    flux = np.full(n, 30_000.0)
    empty = replace(stars.frame, image=np.zeros(SHAPE, np.float32))
    alike = replace(stars.psf, quality=replace(stars.psf.quality, shape_scatter_pix2=(0.0, 0.0, 0.0)))
    injected = inject_frame(without_photon_noise(empty), alike, lights_at(x, y, flux), rng=rng)
    fit = fit_stamps(injected.science, stars.psf, x + 0.3, y - 0.3, half=stars.half)
    assert np.abs(fit.flux_adu / flux - 1).max() < 2e-3
    assert np.hypot(fit.x_pix - x, fit.y_pix - y).max() < 0.01
    assert np.abs(fit.background_adu).max() < 1


def test_residuals_of_both_kinds_are_noise_and_a_wide_psf_shows(stars, pairs):
    for kind in (pairs.real, pairs.injected):
        assert np.median(kind.chi2) == pytest.approx(1, abs=0.1)
    wide = widened(stars.psf, 1.05)
    middle = np.array([SHAPE[1] / 2]), np.array([SHAPE[0] / 2])
    assert psf_model.sample(wide, *middle).sum() == pytest.approx(1)
    # 5 % wider: sample k of 20 per pixel is what sample k of 21 was.
    fine, coarse = (
        psf_model.sample(psf, *middle, oversample=n)[0] for psf, n in ((stars.psf, 21), (wide, 20))
    )
    at, to = len(fine) // 2, len(coarse) // 2
    reach = 5 * stars.half
    shape = [
        image[m - reach : m + reach + 1, m - reach : m + reach + 1] / image[m, m]
        for image, m in ((fine, at), (coarse, to))
    ]
    assert np.abs(shape[0] - shape[1]).max() < 1e-3
    bright = pair_stars(stars, psf=wide, rng=stream(1, "place"))
    here = bright.real_snr > 50
    centre = bright.injected.residual_sigma[:, stars.half, stars.half]
    honest = pairs.injected.residual_sigma[pairs.real_snr > 50, stars.half, stars.half]
    assert centre[here].mean() < honest.mean() - 1  # light is missing in the middle


def test_a_star_whose_fit_fails_is_nan_not_a_number(stars):
    dark = replace(stars.frame, image=stars.frame.image * 0 - 50)
    fit = fit_stamps(dark, stars.psf, np.array([60.2]), np.array([70.1]), half=stars.half)
    assert np.isnan([fit.flux_adu[0], fit.x_pix[0], fit.chi2[0]]).all() or fit.flux_adu[0] < 1e-3


def test_a_hot_pixel_is_no_star_and_a_star_no_hot_pixel(stars):
    sources = stars.sources
    x, y = sources.x_pix[stars.rows].astype(int) + 25, sources.y_pix[stars.rows].astype(int)
    ny, nx = stars.frame.shape
    near = np.hypot(x[:, None] - sources.x_pix, y[:, None] - sources.y_pix).min(axis=1) > 12
    usable = near & (x < nx - 20) & (y > 20) & (y < ny - 20)
    x, y = x[usable], y[usable]
    image = stars.frame.image.copy()
    image[y, x] += 15 * np.sqrt(stars.frame.variance[y, x])
    hot = fit_stamps(replace(stars.frame, image=image), stars.psf, x + 0.2, y - 0.1, half=stars.half)
    found = hot.is_single_pixel[np.isfinite(hot.flux_adu)]
    assert len(found) > 20
    assert found.mean() > 0.97
    real = fit_stamps(
        stars.frame, stars.psf, sources.x_pix[stars.rows], sources.y_pix[stars.rows], half=stars.half
    )
    assert real.is_single_pixel.mean() < 0.02


def test_stamps_for_the_network_do_not_depend_on_the_flux(pairs):
    seen = channels(pairs.real, pairs.fwhm_pix)
    assert seen.shape[1] == 2
    assert np.isfinite(seen).all()
    half = seen.shape[-1] // 2
    peak = seen[:, 0, half, half]
    assert np.corrcoef(peak, np.log(pairs.real_snr))[0, 1] < 0.3


def test_the_flux_is_there_with_the_noise_of_its_photons(photometry):
    facts = summary(photometry)
    assert abs(facts["flux_bias"]) < max(0.005, 3 * facts["flux_bias_err"])
    assert facts["flux_pull_std"] == pytest.approx(1, abs=max(0.05, 3 * facts["flux_pull_std_err"]))
    assert facts["noiseless_pull_std"] < 0.5
    assert facts["noiseless_sigma"] > 5
    assert facts["found_pull_std"] == pytest.approx(1, abs=0.12)


def test_missing_light_and_a_wrong_gain_are_seen(photometry):
    dim = replace(photometry, gained_adu=0.99 * photometry.gained_adu)
    assert summary(dim)["flux_bias"] == pytest.approx(-0.01, abs=0.004)
    optimistic = replace(photometry, gained_err_adu=photometry.gained_err_adu / 1.2)
    assert summary(optimistic)["flux_pull_std"] > 1.1


def test_too_few_stars_have_no_figures(photometry):
    few = type(photometry)(**{name: values[:20] for name, values in vars(photometry).items()})
    facts = summary(few)
    assert facts["flux_bias"] is None
    assert "100 are needed" in facts["reason"]


def test_apertures_have_the_area_of_their_circle():
    weights = aperture_weights(np.array([0.0, 0.37]), np.array([0.0, -0.21]), 4.3, 8)
    assert weights.sum(axis=(1, 2)) == pytest.approx(np.pi * 4.3**2, rel=5e-3)
    assert np.sum(weights[1] * np.arange(-8, 9)) / weights[1].sum() == pytest.approx(0.37, abs=0.02)


@pytest.mark.parametrize("gain", [0.5, GAIN, 30.0])
def test_digitisation_adds_what_rounding_adds(gain):
    rng = np.random.default_rng(1)
    light = np.array([0.003, 0.2, 1.3, 40.0])
    electrons = rng.poisson(light * gain, (400_000, 4))
    fraction = rng.uniform(-0.5, 0.5, electrons.shape)
    value = np.rint(fraction + electrons / gain)
    measured = np.mean((value - electrons / gain) ** 2, axis=0)  # about the light of these electrons
    assert digitisation_variance(light, gain) == pytest.approx(measured, rel=0.05, abs=1e-4)


def test_empty_places_are_empty(stars):
    x, y = photometry_module._empty_places(stars.frame, stars.sources, 40, 8, 12.0, rng=stream(1, "place"))
    gap = np.hypot(x[:, None] - stars.sources.x_pix, y[:, None] - stars.sources.y_pix)
    assert gap.min() > 12


ROW = {
    "auc": 0.55,
    "auc_low": 0.5,
    "auc_high": 0.6,
    "n_stars": 50,
    "n_real": 500,
    "n_injected": 500,
    "reason": "",
}
NONE = {"auc": None, "auc_low": None, "auc_high": None, "n_stars": 3, "n_real": 3, "n_injected": 3} | {
    "reason": "3 stars; 20 are needed"
}


def controls(auc=0.9, sigma=10.0):
    photometric = {"noiseless_sigma": sigma, "noiseless_pull_std": 0.5, "flux_pull_std": 1.0, "reason": "few"}
    return control_facts([ROW, ROW, ROW | {"auc": auc} if auc else NONE], photometric)


def test_the_headline_is_the_worse_of_the_two_lower_bins():
    facts = headline(
        [ROW, ROW | {"auc": 0.58, "auc_low": 0.53, "auc_high": 0.63}, ROW | {"auc": 0.9}], controls()
    )
    assert (facts["two_sample_auc"], facts["two_sample_auc_low"], facts["two_sample_auc_high"]) == (
        0.58,
        0.53,
        0.63,
    )
    assert facts["valid"]


@pytest.mark.parametrize(
    ("rows", "control", "words"),
    [
        ([ROW, NONE, ROW], controls(), "S/N 20 to 50: 3 stars"),
        ([ROW, ROW, ROW], controls(auc=0.7), "a PSF 5 % too wide scores 0.700"),
        ([ROW, ROW, ROW], controls(auc=None), "control with a wide PSF at S/N above 50: 3 stars"),
        ([ROW, ROW, ROW], controls(sigma=2.0), "the pull without photon noise is off by 2.0 sigma"),
        ([ROW, ROW, ROW], controls(sigma=None), "control without photon noise: few"),
    ],
)
def test_what_does_not_count_says_why(rows, control, words):
    facts = headline(rows, control)
    assert not facts["valid"]
    assert words in " ".join(facts["not_valid_because"])
    if rows[1]["auc"] is None:
        assert facts["two_sample_auc"] is None


def guess(stamps, is_real, star, fold, snr_bin, n_bins, *, seed, progress=None):  # noqa: ARG001
    """Instead of the network: the residual in the middle of the stamp, and its AUC by counting."""
    assert np.isfinite(stamps).all()
    assert len(stamps) == len(is_real) == len(star) == len(fold) == len(snr_bin)
    middle = stamps.shape[-1] // 2
    scores = stamps[:, 1, middle, middle].astype(float)
    rows = []
    for number in range(n_bins):
        here = snr_bin == number
        real, injected = scores[here & is_real], scores[here & ~is_real]
        auc = float(np.mean(real[:, None] > injected))
        rows.append(ROW | {"auc": auc, "auc_low": auc - 0.1, "auc_high": min(auc + 0.1, 1.0)})
    return scores, rows


def test_a_report_is_written_whole_with_failed_frames_and_their_reasons(paths, tmp_path, monkeypatch):
    monkeypatch.setattr("rbsim.fidelity.N_PHOTOMETRY", 200)
    broken = tmp_path / "broken.fits"
    broken.write_text("no FITS")
    facts = run_fidelity([paths[0], str(broken)], tmp_path / "report", InjectConfig(), tell_apart=guess)
    written = json.loads((tmp_path / "report" / "fidelity.json").read_text())
    assert written == facts
    assert facts["n_frames"] == 1
    assert list(facts["failed"]) == [str(broken)]
    for name in ("two_sample_auc", "two_sample_auc_low", "two_sample_auc_high", "flux_bias", "flux_pull_std"):
        assert isinstance(facts[name], float), name
    assert abs(facts["bins"][-1]["auc"] - 0.5) < 0.15
    assert facts["controls"]["wide_psf"]["auc"] > 0.75  # even one pixel shows it
    assert facts["residuals"][-1]["chi2_real"] == pytest.approx(1, abs=0.15)
    assert facts["frames"][0]["fwhm_pix"] == pytest.approx(FWHM_PIX, rel=0.2)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "broken.fits" in page
    assert page.count("data:image/png;base64,") == 7
    assert 'src="http' not in page
    with pytest.raises(InputError, match="exists already"):
        run_fidelity(paths[:1], tmp_path / "report", InjectConfig(), tell_apart=guess)


def test_the_same_seed_gives_the_same_pairs_bit_for_bit(stars, pairs):
    again = pair_stars(stars, psf=stars.psf, rng=stream(1, "place"))
    for name, values in vars(pairs.injected).items():
        assert np.array_equal(values, getattr(again.injected, name)), name
    other = pair_stars(stars, psf=stars.psf, rng=stream(2, "place"))
    assert not np.array_equal(other.injected.x_pix[:10], pairs.injected.x_pix[:10])


def test_no_usable_frame_is_one_error_and_leaves_nothing(tmp_path):
    broken = tmp_path / "broken.fits"
    broken.write_text("no FITS")
    result = CliRunner().invoke(
        app, ["fidelity", str(broken), "--out", str(tmp_path / "report"), "--gain", "2"]
    )
    assert result.exit_code == 1
    assert "none of 1 frames could be used" in " ".join(result.output.split())
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_the_command_finds_own_injection_better_than_a_wide_psf(tmp_path, monkeypatch):
    """Three frames: 170 stars in 470 pairs, of which 60 in the faintest bin, are enough for the network."""
    monkeypatch.setattr("rbsim.fidelity.N_PHOTOMETRY", 300)
    paths = write_frames(tmp_path, n_frames=3, n_stars=196)
    out = tmp_path / "report"
    result = CliRunner().invoke(app, ["fidelity", *paths, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads((out / "fidelity.json").read_text())
    wide = facts["controls"]["wide_psf"]["bins"]
    for own, wrong in zip(facts["bins"], wide, strict=True):
        assert own["auc"] < wrong["auc"]
    assert facts["two_sample_auc_low"] < 0.6
    assert wide[-1]["auc"] > 0.75


def test_a_frame_without_stars_to_pair_or_places_to_fill_gives_none(stars):
    none = np.zeros(0, int)
    alone = replace(stars, rows=none, star=none, fold=none)
    assert len(pair_stars(alone, psf=stars.psf, rng=stream(1, "place")).star) == 0
    rng = stream(1, "place")
    everywhere = stars.sources.select(np.zeros(4000, int))
    everywhere = replace(everywhere, x_pix=rng.uniform(0, 400, 4000), y_pix=rng.uniform(0, 380, 4000))
    assert len(measure_photometry(stars.frame, stars.psf, everywhere, n_stars=10, rng=rng).snr) == 0
