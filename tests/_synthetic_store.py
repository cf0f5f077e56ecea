"""A small store without an instrument: Gaussian stars as reals; dipoles, hot pixels and noise as bogus."""

from pathlib import Path

import numpy as np

from rbsim import build, schema
from rbsim.pack import finalise
from rbsim.store import Store

TILE_PIX = 400.0
NOISE_ADU = 10.0
FWHM_PIX = 3.0


def _gaussian(n, *, fwhm_pix, offset_pix, rng):
    """Unit-flux Gaussians near the centre, shape (n, 29, 29)."""
    y, x = np.mgrid[:29, :29] - 14.0
    sigma = (fwhm_pix / 2.355)[:, None, None]
    dx, dy = rng.uniform(-offset_pix, offset_pix, (2, n, 1, 1))
    return np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def _shift(images, step):
    return np.roll(images, step, axis=2)


def make_stamps(kind, snr, *, rng):
    """Stamps in ADU, shape (n, 3, 29, 29), of given kinds and rough S/N."""
    n = len(kind)
    fwhm = rng.normal(FWHM_PIX, 0.2, n).clip(2.3)
    psf = _gaussian(n, fwhm_pix=fwhm, offset_pix=0.5, rng=rng)
    noise_of_flux = NOISE_ADU / np.sqrt(np.sum(psf**2, axis=(1, 2)))
    flux = (snr * noise_of_flux)[:, None, None]
    host = _gaussian(n, fwhm_pix=2 * fwhm, offset_pix=4, rng=rng) * rng.exponential(20_000, (n, 1, 1))
    host *= rng.random((n, 1, 1)) < 0.5
    real = np.isin(kind, [schema.KIND_CODES["injected_random"], schema.KIND_CODES["emulated_transient"]])
    hot = np.zeros((n, 29, 29))
    hot[:, 14, 14] = 1.0
    wide = _gaussian(n, fwhm_pix=fwhm, offset_pix=1, rng=rng)
    dipole = 1.5 * (wide - _shift(wide, 2))
    shape = np.where((rng.random(n) < 0.4)[:, None, None], hot / 3, dipole)
    # Some bogus look like stars: what no classifier can tell apart.
    shape = np.where((rng.random(n) < 0.03)[:, None, None], psf, shape)
    added = flux * np.where(real[:, None, None], psf, shape)
    reference = host + rng.normal(0, 2, (n, 29, 29))
    difference = added + rng.normal(0, NOISE_ADU, (n, 29, 29))
    science = reference + difference
    return np.stack([reference, science, difference], axis=1).astype(np.float32)


def make_store(path: Path, *, n_stamps: int, n_blocks: int = 8, n_side: int = 3, seed: int = 0) -> Store:
    """One partition per block; a fifth of the stamps are emulated transients."""
    shares = {"artefact": 0.4, "injected_random": 0.4, "emulated_transient": 0.2}
    edges = (np.arange(n_side + 1) * TILE_PIX).tolist()
    build.init(
        path,
        config={"condition": "synthetic", "reference_name": "none"},
        inputs=[f"b{i}" for i in range(n_blocks)],
        summary={"tiling": {"x_edges_pix": edges, "y_edges_pix": edges}},
    )
    for block in range(n_blocks):
        rng = np.random.default_rng([seed, block])
        n = n_stamps // n_blocks
        kind = rng.choice([schema.KIND_CODES[name] for name in shares], n, p=list(shares.values())).astype(
            np.int8
        )
        label_true = np.array([schema.label_of_kind(code)[0] for code in kind], np.int8)
        emulated = kind == schema.KIND_CODES["emulated_transient"]
        snr = 5 + rng.exponential(8, n)
        x, y = rng.uniform(0, n_side * TILE_PIX, (2, n))
        tile = (y // TILE_PIX).astype(int) * n_side + (x // TILE_PIX).astype(int)
        given = {
            "kind": kind,
            "label_true": label_true,
            "label_given": np.where(emulated, schema.LABEL_EXCLUDED, label_true),
            "snr": snr,
            "x_ref_pix": x,
            "y_ref_pix": y,
            "footprint_half_ref_pix": np.full(n, 15.0),
            "noise_adu": np.full(n, NOISE_ADU),
            "flags": np.where(rng.random(n) < 0.01, schema.CANDIDATE_FLAG["AMBIGUOUS"], 0),
            "block": np.full(n, block),
            "tile": tile,
            "group": block * n_side**2 + tile,
        }
        columns = {
            s.name: given.get(s.name, np.zeros(n)) for s in schema.CANDIDATE_COLUMNS if s.name != "frame"
        }
        build.write_partition(
            path,
            block,
            build.Partition(
                name=f"b{block}",
                reason="",
                frame={s.name: 0 for s in schema.FRAME_COLUMNS},
                stamps=make_stamps(kind, snr, rng=rng),
                candidates=columns,
                truth={s.name: np.zeros(0) for s in schema.TRUTH_COLUMNS},
            ),
        )
    return finalise(path)
