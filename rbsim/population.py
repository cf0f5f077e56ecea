"""Drawing the stars of a frame: of a population's kinds, or of the user's catalogue.

Everything is drawn from the frame as it was observed, so that the same stars can be injected into degraded
versions of it.
"""

import numpy as np

from rbsim.asked import AskedStars, ask, joined
from rbsim.catalogue import InjectionCatalogue
from rbsim.catalogue_stars import stars_of_catalogue
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.on_frame import flux_error_at, flux_in_science, has_cube, pixel_of, pixels_per_rate, usable_pixels
from rbsim.place import (
    NOTHING_TAKEN,
    TRIES_PER_STAR,
    Taken,
    half_size_of_trails,
    min_separation,
    place,
    scatter,
)
from rbsim.population_settings import Population, Variable
from rbsim.schema import INJECTED_IN, INJECTION_FLAG, KIND_CODES, MASK
from rbsim.seeding import stream
from rbsim.sources import Sources


def ask_for_stars(
    frame: Subtracted,
    config: InjectConfig,
    population: Population,
    catalogue: InjectionCatalogue | None,
    *,
    key: int,
) -> list[AskedStars]:
    """The stars of every realisation: positions, fluxes, and what else was drawn.

    Parameters
    ----------
    frame : Subtracted
        As observed.
    config : InjectConfig
    population : Population
    catalogue : InjectionCatalogue or None
        Replaces the population.
    key : int
        Of the frame; all draws hang on it, the seed and the realisation.

    Returns
    -------
    list of AskedStars
        One per realisation. New fixed stars are fewer where they do not fit; all else that cannot be
        placed, or is impossible on this frame, is a row with a flag.

    Raises
    ------
    InputError
        If a catalogue has only sky positions and the frame no WCS.
    """
    if catalogue is not None:
        return stars_of_catalogue(frame, config, catalogue)
    return [
        _of_population(frame, config, population, key=key, realisation=realisation)
        for realisation in range(config.realisations)
    ]


def count_kinds(population: Population, n_stars: int) -> dict[str, int]:
    """How many of `n_stars` each kind gets: rounded shares, remainders to the largest fractions.

    Random stars and those near galaxies are counted together and then divided.
    """
    still = population.random.share + population.near_galaxy.share
    shares = {"still": still} | {
        name: getattr(population, name).share for name in ("variable", "moving", "flare", "glint")
    }
    exact = {name: share * n_stars for name, share in shares.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: n_stars - sum(counts.values())]:
        counts[name] += 1
    near = round(population.near_galaxy.share / still * counts["still"]) if still else 0
    return {"near_galaxy": near, "random": counts.pop("still") - near, **counts}


def _of_population(
    frame: Subtracted, config: InjectConfig, population: Population, *, key: int, realisation: int
) -> AskedStars:
    n = count_kinds(population, config.stars_per_frame)
    parts: list[AskedStars] = []
    taken = NOTHING_TAKEN
    if n["variable"]:
        rng = stream(config.seed, "population", key, realisation, KIND_CODES["injected_variable"])
        parts.append(_variables(frame, config, population.variable, n["variable"], rng=rng))
        taken = _with(taken, parts[0])
    n_blind = round(config.blind_share * n["random"])
    blind = []
    if n_blind:
        # Placed first: what others leave on a crowded frame is mostly masks.
        rng = stream(config.seed, "blind", key, realisation)
        blind.append(_blind(frame, config, n_blind, taken, rng=rng))
        taken = _with(taken, blind[0])
    seeing = n | {"random": n["random"] - n_blind}
    parts.append(_still(frame, config, population, seeing, taken, key=key, realisation=realisation))
    taken = _with(taken, parts[-1])
    parts += blind
    for name in ("moving", "flare", "glint"):
        if n[name]:
            kind = KIND_CODES[f"injected_{name}"]
            rng = stream(config.seed, "population", key, realisation, kind)
            parts.append(_scattered(frame, config, population, kind, n[name], taken, rng=rng))
            taken = _with(taken, parts[-1])
    # New stars first: without other kinds their rows are what they always were.
    return joined(parts if not n["variable"] else [*parts[1:], parts[0]])


def _with(taken: Taken, stars: AskedStars) -> Taken:
    half = half_size_of_trails(stars.trail_length_pix, stars.trail_angle_deg)
    return taken.with_more(np.column_stack([stars.x_pix, stars.y_pix]), half)


def _log_uniform(low: float, high: float, uniform: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(np.log(low) + uniform * np.log(high / low)))


def _still(
    frame: Subtracted,
    config: InjectConfig,
    population: Population,
    n: dict[str, int],
    taken: Taken,
    *,
    key: int,
    realisation: int,
) -> AskedStars:
    """New points of light, at random and near galaxies."""
    n_stars = n["random"] + n["near_galaxy"]
    places = place(
        usable_pixels(frame),
        frame.hosts,
        n_stars=n_stars,
        near_galaxy=n["near_galaxy"] / max(n_stars, 1),
        fwhm_pix=frame.psf.fwhm_pix,
        rng=stream(config.seed, "place", key, realisation),
        offset_max_radii=population.near_galaxy.offset_max_radii,
        taken=taken,
    )
    uniform = stream(config.seed, "flux", key, realisation).random(len(places.x_pix))
    snr = _log_uniform(config.snr_min, config.snr_max, uniform)
    flux = snr * flux_error_at(frame, places.x_pix, places.y_pix)
    delta = np.full(len(flux), np.nan)
    near = places.host >= 0
    host_flux = flux_in_science(frame, frame.hosts)[places.host[near]]
    lit = host_flux > 0
    delta[near] = np.where(lit, -2.5 * np.log10(flux[near] / np.where(lit, host_flux, 1)), np.nan)
    return ask(
        places.x_pix,
        places.y_pix,
        places.kind,
        flux,
        snr,
        delta_mag=delta,
        host_offset_pix=places.host_offset_pix,
        host_pa_deg=places.host_pa_deg,
        host_radius_pix=places.host_radius_pix,
    )


def _blind(
    frame: Subtracted, config: InjectConfig, n_stars: int, taken: Taken, *, rng: np.random.Generator
) -> AskedStars:
    """Random stars as of a survey that does not look: anywhere, and also too faint to be seen.

    On a mask the flux is that of the S/N at a typical pixel; such stars are flagged, and not drawn. There are
    fewer where they do not fit.
    """
    usable = usable_pixels(frame)
    xy = scatter(
        np.ones_like(usable),
        np.zeros((n_stars, 2)),
        n_tries=TRIES_PER_STAR * n_stars,
        fwhm_pix=frame.psf.fwhm_pix,
        rng=rng,
        taken=taken,
    )
    snr = _log_uniform(config.blind_snr_min, config.snr_max, rng.random(n_stars))
    placed = np.isfinite(xy[:, 0])
    x, y, snr = xy[placed, 0], xy[placed, 1], snr[placed]
    column, line = pixel_of(frame, x, y)
    on_mask = ~usable[line, column]
    error = np.where(on_mask, np.median(frame.filtered.flux_err_adu[usable]), flux_error_at(frame, x, y))
    flag = np.where(on_mask, INJECTION_FLAG["ON_MASK"], 0)
    return ask(x, y, KIND_CODES["injected_random"], snr * error, snr, flag=flag)


def _scattered(
    frame: Subtracted,
    config: InjectConfig,
    population: Population,
    kind: int,
    n_stars: int,
    taken: Taken,
    *,
    rng: np.random.Generator,
) -> AskedStars:
    """Moving objects, flares or glints, anywhere; with their flag where the frame does not allow them."""
    uniform = rng.random((4, n_stars))
    length, n_frames, flag = np.zeros(n_stars), np.zeros(n_stars, int), 0
    if kind == KIND_CODES["injected_moving"]:
        moving = population.moving
        rate = _log_uniform(moving.rate_min_arcsec_per_s, moving.rate_max_arcsec_per_s, uniform[0])
        length = rate * pixels_per_rate(frame, config)
        if n_stars and not np.isfinite(length[0]):
            length, flag = np.zeros(n_stars), INJECTION_FLAG["NO_SCALE"]
    else:
        flare = population.flare
        span = flare.n_frames_max - flare.n_frames_min + 1
        n_frames = flare.n_frames_min + (uniform[1] * span).astype(int)
        if kind == KIND_CODES["injected_glint"]:
            n_frames = np.ones(n_stars, int)
        flag = 0 if has_cube(frame) else INJECTION_FLAG["NO_CUBE"]
    angle = np.where(length > 0, 180 * uniform[3], 0)
    # Short trails first: one that crosses the frame would keep all others out.
    order = np.argsort(length, kind="stable")
    xy = np.empty((n_stars, 2))
    xy[order] = scatter(
        usable_pixels(frame),
        half_size_of_trails(length, angle)[order],
        n_tries=TRIES_PER_STAR * n_stars,
        fwhm_pix=frame.psf.fwhm_pix,
        rng=rng,
        taken=taken,
    )
    placed = np.isfinite(xy[:, 0])
    snr = _log_uniform(config.snr_min, config.snr_max, uniform[2])
    return ask(
        xy[:, 0],
        xy[:, 1],
        kind,
        np.where(placed, snr * flux_error_at(frame, *xy.T), 0),
        snr,
        trail_length_pix=length,
        trail_angle_deg=angle,
        n_cube_frames=n_frames,
        flag=flag | np.where(placed, 0, INJECTION_FLAG["CROWDED"]),
    )


def _variables(
    frame: Subtracted, config: InjectConfig, wanted: Variable, n_stars: int, *, rng: np.random.Generator
) -> AskedStars:
    """Stars of the reference that change, each for the S/N, sign and image drawn for it.

    The first star of a random order that is free and can change so takes the change: no image gains or
    loses more than `delta_mag_max`, so a star is always left with some light. Where there is none, the row
    has no position and the flag NO_STAR.
    """
    uniform = rng.random((4, n_stars))
    snr = _log_uniform(config.snr_min, config.snr_max, uniform[0])
    snr = np.where(uniform[1] < wanted.fainter, -snr, snr)
    borders = np.cumsum([wanted.in_science, wanted.in_reference])
    where = np.searchsorted(borders, uniform[2], side="right")  # codes of INJECTED_IN, in this order
    share = np.select(
        [where == INJECTED_IN["science"], where == INJECTED_IN["reference"]], [1.0, 0.0], uniform[3]
    )
    stars = _stars_of_reference(frame, wanted)
    order = rng.permutation(len(stars))
    stars = stars.select(order)
    flux, error = flux_in_science(frame, stars), flux_error_at(frame, stars.x_pix, stars.y_pix)
    most = 10 ** (0.4 * wanted.delta_mag_max)
    xy = np.column_stack([stars.x_pix, stars.y_pix])
    free = flux > 0
    star = np.full(n_stars, -1)
    for i in range(n_stars):
        change = snr[i] * error
        science, reference = flux + share[i] * change, flux - (1 - share[i]) * change
        can = (
            free
            & (np.minimum(science, reference) >= flux / most)
            & (np.maximum(science, reference) <= flux * most)
        )
        delta = np.zeros(len(flux))
        delta[can] = np.abs(2.5 * np.log10(science[can] / reference[can]))
        can &= (delta >= wanted.delta_mag_min) & (delta <= wanted.delta_mag_max)
        if can.any():
            star[i] = int(np.argmax(can))
            free &= np.abs(xy - xy[star[i]]).max(axis=1) >= min_separation(frame.psf.fwhm_pix)
    got = star >= 0
    x, y, base, change = (np.full(n_stars, np.nan) for _ in range(4))
    x[got], y[got], base[got] = stars.x_pix[star[got]], stars.y_pix[star[got]], flux[star[got]]
    change[got] = snr[got] * error[star[got]]
    science, reference = share * change + 0.0, (share - 1) * change + 0.0  # no negative zeros
    return ask(
        x,
        y,
        KIND_CODES["injected_variable"],
        np.where(got, science, 0),
        snr,
        reference_flux_adu=np.where(got, reference, 0),
        injected_in=where,
        delta_mag=-2.5 * np.log10((base + science) / (base + reference)),
        star_flux_adu=base,
        flag=np.where(got, 0, INJECTION_FLAG["NO_STAR"]),
    )


def _stars_of_reference(frame: Subtracted, wanted: Variable) -> Sources:
    """Point sources of the reference, bright enough and saturated in neither image."""
    stars = frame.reference_sources
    ny, nx = frame.science.shape
    inside = (stars.x_pix > -0.5) & (stars.x_pix < nx - 0.5) & (stars.y_pix > -0.5) & (stars.y_pix < ny - 0.5)
    x, y = pixel_of(frame, stars.x_pix, stars.y_pix)
    saturated = (frame.difference.mask[y, x] & (MASK["SATURATED"] | MASK["SATURATED_REFERENCE"])) != 0
    extended = np.isin(stars.x_pix, frame.hosts.x_pix) & np.isin(stars.y_pix, frame.hosts.y_pix)
    good = inside & usable_pixels(frame)[y, x] & ~saturated & ~stars.saturated & ~extended
    return stars.select(good & (stars.snr >= wanted.star_snr_min))
