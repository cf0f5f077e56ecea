"""What is known of a frame's PSF is kept with it; a frame on which there can be none says why."""

import galsim
import numpy as np
import pytest
from _survey_scene import (
    REFERENCE_GAIN,
    SCIENCE_FWHM,
    SHAPE,
    _stamp,
    draw,
    expose,
    in_reference,
    reference_light,
    scene,
    write_reference,
    write_science,
)
from astropy.table import Table

from rbsim import schema
from rbsim.config import InjectConfig
from rbsim.describe import describe_store, describe_text
from rbsim.difference_run import run_subtraction
from rbsim.errors import InputError
from rbsim.moffat import fwhm_of
from rbsim.reference import load_reference
from rbsim.run import run_injection

TRAIL_PIX = 3.0
FAILED = {
    "galaxies.fits": "the ellipticity of its .* sources .* scatters by .*, allowed 0.25; are they galaxies",
    "noise.fits": "only 0 stars found on it; registration needs 5",
    "saturated.fits": "only 0 unsaturated stars found on it, beside [0-9]+ saturated ones; registration",
}


def galaxies(field):
    """Light of exponential discs of all sizes and inclinations, ADU."""
    rng = np.random.default_rng(7)
    image = galsim.ImageD(SHAPE[1], SHAPE[0])
    seeing = galsim.Moffat(beta=3.5, fwhm=SCIENCE_FWHM)
    for x, y, flux in zip(field.x_pix, field.y_pix, field.flux_adu, strict=True):
        g1, g2 = rng.uniform(-0.4, 0.4, 2)
        disc = galsim.Exponential(half_light_radius=rng.uniform(3, 8)).shear(g1=g1, g2=g2)
        one = galsim.Convolve(disc, seeing).withFlux(3 * flux)
        stamp = one.drawImage(nx=61, ny=61, scale=1.0, center=galsim.PositionD(x + 1, y + 1))
        both = stamp.bounds & image.bounds
        if both.isDefined():
            image[both] += stamp[both]
    return image.array


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Folder of two frames that work, one trailed along x, and of three without a star for a PSF."""
    folder = tmp_path_factory.mktemp("frames")
    stars = scene(300)
    light = draw(stars)
    write_science(folder / "good.fits", expose(light))
    write_science(folder / "trailed.fits", expose(draw(stars, trail_pix=TRAIL_PIX)))
    write_science(folder / "noise.fits", expose(np.zeros(SHAPE)))
    write_science(folder / "galaxies.fits", expose(galaxies(stars)))
    write_science(folder / "saturated.fits", np.minimum(expose(30 * light), 500), SATURATE=500.0)
    return folder


@pytest.fixture(scope="module")
def reference_path(tmp_path_factory):
    image = expose(reference_light(scene(300)), gain=REFERENCE_GAIN, seed=3)
    return write_reference(tmp_path_factory.mktemp("reference") / "r.fits", image)


@pytest.fixture(scope="module")
def subtracted(frames, reference_path, tmp_path_factory):
    """Rows of frames.ecsv by name."""
    out = tmp_path_factory.mktemp("subtract") / "out"
    run_subtraction(sorted(map(str, frames.iterdir())), reference_path, out, InjectConfig(), images=False)
    table = Table.read(out / "frames.ecsv")
    return {str(row["frame"]): row for row in table}


@pytest.fixture(scope="module")
def store(frames, reference_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("inject") / "a.zarr"
    config = InjectConfig(stars_per_frame=30, realisations=1)
    return run_injection(sorted(map(str, frames.iterdir())), reference_path, out, config)


def true_figures(trail_pix):
    """FWHM, and the ellipticity of moments under a Gaussian of that FWHM, of the profile that was drawn."""
    half, phases = 15, 8
    rows = [
        np.stack([_stamp(SCIENCE_FWHM, half, trail_pix, i, j) for i in range(phases)], axis=-1)
        for j in range(phases)
    ]
    # A star shifted by i eighths to the right shows the profile at offsets of so much less.
    fine = np.stack(rows, axis=1)[:, ::-1, :, ::-1].reshape(phases * (2 * half + 1), -1)
    offset = -half + (np.arange(len(fine)) - (phases - 1)) / phases
    fwhm = fwhm_of(fine, phases)
    weighted = fine * np.exp(-0.5 * (offset**2 + offset[:, None] ** 2) / (fwhm / 2.355) ** 2)
    xx, yy = weighted.sum(axis=0) @ offset**2, weighted.sum(axis=1) @ offset**2
    return fwhm, (xx - yy) / (xx + yy)


@pytest.mark.parametrize(("name", "trail_pix"), [("good.fits", 0.0), ("trailed.fits", TRAIL_PIX)])
def test_figures_of_the_psf_are_those_of_the_stars_that_were_drawn(subtracted, name, trail_pix):
    row = subtracted[name]
    fwhm, e1 = true_figures(trail_pix)
    assert row["ok"]
    assert row["fwhm_pix"] == pytest.approx(fwhm, abs=5 * float(row["psf_fwhm_err_pix"]))
    assert 0.0003 * fwhm < row["psf_fwhm_err_pix"] < 0.01 * fwhm
    assert row["psf_e1"] == pytest.approx(e1, abs=0.01)
    assert row["psf_e2"] == pytest.approx(0, abs=0.01)
    assert row["psf_order"] == 2  # of 60 to 119 stars
    assert 60 <= row["n_psf_stars"] < 120
    assert not row["psf_is_moffat"]
    assert 0.8 < row["psf_chi2"] < 1.2
    # All stars have one shape: nothing beyond noise, in units of the variance along an axis.
    for of in ("width", "e1", "e2"):
        assert 0 <= row[f"psf_scatter_{of}_pix2"] < 0.01 * (fwhm / 2.355) ** 2
    assert row["psf_aperture_ratio"] == pytest.approx(1, abs=4 * float(row["psf_aperture_ratio_err"]) + 0.002)


def test_the_store_has_the_same_figures_and_info_says_them(subtracted, store):
    names = {name: number for number, name in enumerate(store.frame_names)}
    for spec in schema.PSF_COLUMNS:
        values = store.column(f"frames/{spec.name}")
        assert values.dtype == spec.dtype
        for name in ("good.fits", "trailed.fits"):
            assert values[names[name]] == subtracted[name][spec.name], spec.name
    facts = describe_store(store)
    both = [subtracted["good.fits"], subtracted["trailed.fits"]]
    assert facts["median_psf_fwhm_err_pix"] == pytest.approx(np.mean([r["psf_fwhm_err_pix"] for r in both]))
    assert facts["median_psf_order"] == 2
    assert facts["n_psf_moffat"] == 0
    e = np.mean([np.hypot(r["psf_e1"], r["psf_e2"]) for r in both])
    text = dict(describe_text(facts))["PSF"]
    assert text.startswith(f"FWHM {facts['median_fwhm_pix']:.2f} +- 0.0")
    assert text.endswith(f"px, ellipticity {e:.3f}, order 2 (medians)")
    text = dict(describe_text(facts | {"n_psf_moffat": 2}))["PSF"]
    assert text.endswith("; a mere Moffat on 2 of the frames")


@pytest.mark.parametrize("name", FAILED)
def test_a_frame_without_a_star_for_the_psf_is_a_row_with_its_reason(subtracted, store, name):
    row = subtracted[name]
    assert not row["ok"]
    assert row["n_psf_stars"] == 0
    assert np.isnan(row["psf_fwhm_err_pix"])
    number = store.frame_names.index(name)
    assert not store.column("frames/ok")[number]
    for reason in (str(row["reason"]), store.frame_reasons[number]):
        assert name in reason
        with pytest.raises(InputError, match=FAILED[name]):
            raise InputError(reason)


def test_galaxies_in_frame_and_reference_do_not_pass_for_stars(tmp_path):
    light = galaxies(in_reference(scene(150, flux=(2_000, 150_000))))
    path = write_reference(tmp_path / "r.fits", expose(light, gain=REFERENCE_GAIN))
    with pytest.raises(InputError, match=r"r\.fits: no stars for the PSF: .* are they galaxies"):
        load_reference(path)


def test_light_for_a_moffat_only_is_marked(tmp_path):
    stars = scene(7, flux=(2_600, 2_900), margin=-60, seed=5)
    write_science(tmp_path / "s.fits", expose(draw(stars)))
    path = write_reference(tmp_path / "r.fits", expose(reference_light(stars), gain=REFERENCE_GAIN))
    run_subtraction([str(tmp_path / "s.fits")], path, tmp_path / "out", InjectConfig(), images=False)
    row = Table.read(tmp_path / "out" / "frames.ecsv")[0]
    assert row["psf_is_moffat"]
    assert row["psf_order"] == 0
    assert np.isnan(row["psf_fwhm_err_pix"])
