"""Decision 3, proven: difference(science + stars) is difference(science) + stars.

Stars are added to the frame, the frame is written to FITS, and everything is run again from the file:
background, registration, PSF, kernel, subtraction. The prediction by linearity and the rerun are
measured with the same filter; their disagreement in sigma is the result.
"""

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field, write_frame
from astropy.io import fits

from rbsim.chain import subtract_frame
from rbsim.config import SubtractConfig
from rbsim.frame import DetectorOptions, Frame, read_frame
from rbsim.inject import inject
from rbsim.lights import point_lights
from rbsim.place import place
from rbsim.reference import load_reference, measure_reference, stack_reference
from rbsim.schema import INJECTION_FLAG
from rbsim.significance import matched_filter

DIRECTIONS = ["reference", "science"]
PREDICTED = ("SATURATED", "NONLINEAR", "ON_FIT_STAMP", "MOVES_BACKGROUND")
"""What injection itself says of stars for which linearity does not hold."""


def disagreement(frame: Frame, reference, config, tmp_path, *, seed, reread):
    """Deviations in sigma, shape (n,), with S/N, and whether a flag predicts trouble."""
    before = subtract_frame(frame, reference, config)
    rng = np.random.default_rng(seed)
    places = place(
        ~before.difference.bad,
        before.hosts,
        n_stars=120,
        near_galaxy=0.5,
        fwhm_pix=before.psf.fwhm_pix,
        rng=rng,
    )
    x, y = np.rint(places.x_pix).astype(int), np.rint(places.y_pix).astype(int)
    snr = np.exp(rng.uniform(np.log(5), np.log(100), len(x)))
    flux = snr * before.filtered.flux_err_adu[y, x]
    predicted = inject(
        frame,
        before.psf,
        before.difference,
        point_lights(places.x_pix, places.y_pix, flux, places.flag),
        rng=rng,
    )
    raw = predicted.science.image + predicted.science.sky_adu
    header = fits.Header()
    if frame.wcs is not None:
        header.update(frame.wcs.to_header())
    path = tmp_path / frame.name
    fits.PrimaryHDU(np.rint(raw).astype(np.int32) if frame.detector.is_integer else raw, header).writeto(path)
    rerun = subtract_frame(reread(path), reference, config)
    bad = rerun.difference.bad | predicted.difference.bad
    variance = np.where(bad, np.inf, predicted.difference.variance)
    psf_at = predicted.difference.psf_at
    fluxes = [
        matched_filter(np.where(bad, np.nan, image), variance, psf_at)
        for image in (predicted.difference.image, rerun.difference.image)
    ]
    sigma = (fluxes[0].flux_err_adu * predicted.difference.noise_factor)[y, x]
    known = np.isfinite(sigma)
    deviation = ((fluxes[1].flux_adu - fluxes[0].flux_adu)[y, x] / sigma)[known]
    flagged = (predicted.flag & sum(INJECTION_FLAG[name] for name in PREDICTED)) != 0
    return deviation, snr[known], flagged[known]


def check(results, *, typical, tail):
    deviation, snr, flagged = (np.concatenate(parts) for parts in zip(*results, strict=True))
    assert len(deviation) >= 200
    quantiles = np.quantile(np.abs(deviation), [0.5, 0.95])
    assert quantiles[0] < typical, quantiles
    assert quantiles[1] < tail, quantiles
    # What is not flagged is linear to better than its own noise, and to 3 % of its flux where it is bright.
    off = ~flagged
    assert np.mean(np.abs(deviation[off]) > 1) < 0.02
    bright = off & (snr > 20)
    assert np.quantile(np.abs(deviation / snr)[bright], 0.95) < 0.03


def test_realisations_equal_a_rerun_on_emulated_frames(tiny_night, tmp_path):
    reference = load_reference(tiny_night / "reference.fits")
    results = []
    for seed, path in enumerate(sorted((tiny_night / "science").glob("*.fits"))):

        def reread(file, like=path):
            fits.PrimaryHDU(fits.getdata(file), fits.getheader(like)).writeto(file, overwrite=True)
            return read_frame(file)

        config = SubtractConfig(convolve="reference")
        results.append(disagreement(read_frame(path), reference, config, tmp_path, seed=seed, reread=reread))
    check(results, typical=0.1, tail=0.7)


def test_realisations_equal_a_rerun_where_the_science_frame_is_the_sharper(tmp_path):
    shape = (420, 420)
    field = make_field(shape=shape, n_stars=260, flux=(1_000, 60_000))
    wide = draw_field(field, shape=shape, fwhm_pix=3.4, gain=100.0, seed=50)
    reference = measure_reference(frame_of(tmp_path, wide, "ref.fits", GAIN=100.0))

    def reread(path):
        return read_frame(write_frame(path, fits.getdata(path)))

    results = []
    for seed in (1, 2, 3):
        sharp = frame_of(tmp_path, draw_field(field, shape=shape, fwhm_pix=2.3, seed=seed), f"raw{seed}.fits")
        (tmp_path / sharp.name).unlink()
        config = SubtractConfig(convolve="science")
        results.append(disagreement(sharp, reference, config, tmp_path, seed=seed, reread=reread))
    check(results, typical=0.25, tail=0.8)


@pytest.mark.slow
@pytest.mark.real_frames
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_realisations_equal_a_rerun_on_real_frames(real_frames, tmp_path, direction):
    files = sorted((real_frames / "hatp32").glob("*.fits"))
    options = DetectorOptions(gain_e_per_adu=27.0)
    stack_reference(files[:8], tmp_path / "ref.fits", options=options, rng=np.random.default_rng(1))
    reference = load_reference(tmp_path / "ref.fits")
    config = SubtractConfig(convolve=direction)

    def reread(path):
        return read_frame(path, options=options)

    results = [
        disagreement(reread(files[i]), reference, config, tmp_path, seed=i, reread=reread) for i in (18, 30)
    ]
    check(results, typical=0.1 if direction == "reference" else 0.25, tail=0.8)


def test_stars_that_a_subtraction_would_see_are_flagged(tmp_path):
    shape = (420, 420)
    field = make_field(shape=shape, n_stars=150, flux=(3_000, 60_000))
    reference = measure_reference(
        frame_of(
            tmp_path,
            draw_field(field, shape=shape, fwhm_pix=5.0, gain=100.0, seed=50),
            "ref.fits",
            GAIN=100.0,
        )
    )
    science = frame_of(tmp_path, draw_field(field, shape=shape, fwhm_pix=6.0, seed=1))
    before = subtract_frame(science, reference, SubtractConfig(convolve="reference"))
    fit = before.difference.fit
    on = float(fit.stamp_x_pix[0]), float(fit.stamp_y_pix[0])
    places = np.stack(np.meshgrid(np.arange(60.0, 360, 10), np.arange(60.0, 360, 10)), axis=-1).reshape(-1, 2)
    apart = np.hypot(*(places[:, None] - np.stack([fit.stamp_x_pix, fit.stamp_y_pix], axis=-1)).T).min(axis=0)
    off = places[np.argmax(apart)]
    assert apart.max() > 2 * fit.stamp_half_pix
    error = float(before.filtered.flux_err_adu[int(off[1]), int(off[0])])
    x, y = np.array([on[0], on[0], off[0], off[0]]), np.array([on[1], on[1], off[1], off[1]])
    lights = point_lights(x, y, np.array([2.0, 60.0, 60.0, 5_000.0]) * error)
    out = inject(science, before.psf, before.difference, lights, rng=np.random.default_rng(1))
    expected = [0, INJECTION_FLAG["ON_FIT_STAMP"], 0, INJECTION_FLAG["MOVES_BACKGROUND"]]
    assert list(out.flag & ~INJECTION_FLAG["SATURATED"]) == expected
    assert out.drawn.all()
