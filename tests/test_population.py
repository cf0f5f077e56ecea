"""What a population draws: counts and distributions of every kind, limits, flags, files."""

import dataclasses
import tomllib

import numpy as np
import pytest
from _subtracted import observed_frame
from scipy import stats

import catalogs
from rbsim import population as population_module
from rbsim.asked import ask, dimmed, lights_of
from rbsim.config import InjectConfig
from rbsim.detect import Detections
from rbsim.errors import InputError
from rbsim.judge import match_asked
from rbsim.on_frame import flux_error_at, flux_in_science
from rbsim.place import min_separation
from rbsim.population import ask_for_stars, count_kinds
from rbsim.population_settings import KINDS, Population, load_population, population_from_table
from rbsim.schema import INJECTED_IN, INJECTION_FLAG, KIND_CODES, STAMP_SIZE_PIX

MANY = InjectConfig(stars_per_frame=12, realisations=60)


@pytest.fixture(scope="module")
def frame(tiny_night):
    return observed_frame(tiny_night).frame


def drawn(frame, table, config=MANY, key=5):
    """Stars of all realisations, each attribute joined."""
    parts = ask_for_stars(frame, config, population_from_table(table, "own"), None, key=key)
    return {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(parts[0])
    }


@pytest.mark.parametrize("name", list(catalogs.read_toml("populations.toml")))
@pytest.mark.parametrize("n_stars", [0, 1, 7, 150])
def test_counts_are_the_shares_rounded_and_none_is_lost(name, n_stars):
    population = load_population(name)
    assert population.description
    counts = count_kinds(population, n_stars)
    assert sum(counts.values()) == n_stars
    assert set(counts) == set(KINDS)
    for kind in KINDS:
        assert abs(counts[kind] - getattr(population, kind).share * n_stars) <= 1


def test_the_default_is_half_near_galaxies_and_the_option_divides_anew():
    assert load_population(InjectConfig().population).near_galaxy.share == 0.5
    survey = load_population("survey", near_galaxy=0.25)
    still = survey.random.share + survey.near_galaxy.share
    assert survey.near_galaxy.share == pytest.approx(0.25 * still)
    assert still == pytest.approx(0.6)


def test_every_kind_is_there_as_often_as_asked_and_nobody_is_near_another(frame):
    config = InjectConfig(stars_per_frame=20, realisations=4)
    population = load_population("survey")
    for asked in ask_for_stars(frame, config, population, None, key=5):
        wanted = count_kinds(population, 20)
        for kind in KINDS:
            assert np.count_nonzero(asked.kind == KIND_CODES[f"injected_{kind}"]) == wanted[kind]
        xy = np.column_stack([asked.x_pix, asked.y_pix])
        angle = np.radians(asked.trail_angle_deg)[:, None]
        half = asked.trail_length_pix[:, None] / 2 * np.abs(np.hstack([np.cos(angle), np.sin(angle)]))
        gap = (np.abs(xy[:, None] - xy[None]) - half[:, None] - half[None]).max(axis=2)
        assert gap[np.triu_indices(len(xy), 1)].min() >= min_separation(frame.psf.fwhm_pix) - 1e-9
        assert min_separation(frame.psf.fwhm_pix) > STAMP_SIZE_PIX


def test_draws_hang_on_seed_frame_and_realisation_alone(frame):
    config = InjectConfig(stars_per_frame=15, realisations=2)
    population = load_population("survey")
    first, again = (ask_for_stars(frame, config, population, None, key=5) for _ in range(2))
    more = ask_for_stars(frame, InjectConfig(stars_per_frame=15, realisations=3), population, None, key=5)
    other = ask_for_stars(frame, config, population, None, key=6)
    for field in dataclasses.fields(first[0]):
        for a, b, c in zip(first, again, more, strict=False):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
            np.testing.assert_array_equal(getattr(a, field.name), getattr(c, field.name))
    assert not np.array_equal(first[0].snr, other[0].snr)
    assert not np.array_equal(first[0].snr, first[1].snr)


def test_snr_of_every_kind_is_log_uniform_and_flux_follows_from_it(frame):
    table = {kind: {"share": 0.25} for kind in ("random", "near_galaxy", "moving", "glint")}
    stars = drawn(frame, table)
    for name in table:
        rows = stars["kind"] == KIND_CODES[f"injected_{name}"]
        uniform = np.log(stars["snr"][rows] / MANY.snr_min) / np.log(MANY.snr_max / MANY.snr_min)
        assert rows.sum() > 150
        assert stats.kstest(uniform, "uniform").pvalue > 1e-3, name
    error = flux_error_at(frame, stars["x_pix"], stars["y_pix"])
    np.testing.assert_allclose(stars["flux_adu"], stars["snr"] * error)
    assert (stars["reference_flux_adu"] == 0).all()


def test_stars_near_galaxies_say_where_they_are_and_how_bright_beside_the_host(frame):
    stars = drawn(frame, {"near_galaxy": {"share": 1.0, "offset_max_radii": 1.5}})
    near = stars["kind"] == KIND_CODES["injected_near_galaxy"]
    assert near.sum() > 300
    angle = np.radians(stars["host_pa_deg"][near])
    host_x = stars["x_pix"][near] - stars["host_offset_pix"][near] * np.cos(angle)
    host_y = stars["y_pix"][near] - stars["host_offset_pix"][near] * np.sin(angle)
    hosts = frame.hosts
    off = np.hypot(host_x[:, None] - hosts.x_pix, host_y[:, None] - hosts.y_pix)
    row = off.argmin(axis=1)
    assert off.min(axis=1).max() < 1e-6
    np.testing.assert_array_equal(stars["host_radius_pix"][near], hosts.radius_half_pix[row])
    assert stats.kstest(stars["host_pa_deg"][near] / 360, "uniform").pvalue > 1e-3
    radii = stars["host_offset_pix"][near] / stars["host_radius_pix"][near]
    assert stats.kstest(radii / 1.5, "uniform").pvalue > 1e-3
    ratio = stars["flux_adu"][near] / flux_in_science(frame, hosts)[row]
    np.testing.assert_allclose(stars["delta_mag"][near], -2.5 * np.log10(ratio))
    for name in ("host_pa_deg", "host_offset_pix", "delta_mag"):
        assert np.isnan(stars[name][~near]).all()


def test_variables_are_stars_of_the_reference_that_keep_light_and_stay_within_limits(frame):
    limits = {"delta_mag_min": 0.1, "delta_mag_max": 2.0, "fainter": 0.4, "star_snr_min": 10.0}
    images = {"in_science": 0.5, "in_reference": 0.2, "in_both": 0.3}
    stars = drawn(frame, {"variable": {"share": 1.0, **limits, **images}})
    good = stars["flag"] == 0
    assert good.sum() > 400
    assert (stars["flag"][~good] == INJECTION_FLAG["NO_STAR"]).all()
    n = len(good)
    for name, share in images.items():
        rows = stars["injected_in"] == INJECTED_IN[name.removeprefix("in_")]
        assert abs(rows.sum() - share * n) < 4 * np.sqrt(n * share * (1 - share))
    assert abs((stars["snr"] < 0).sum() - 0.4 * n) < 4 * np.sqrt(n * 0.24)
    of = {name: values[good] for name, values in stars.items()}
    base, science, reference = of["star_flux_adu"], of["flux_adu"], of["reference_flux_adu"]
    assert (base + science > 0).all()
    assert (base + reference > 0).all()
    change = -2.5 * np.log10((base + science) / (base + reference))
    np.testing.assert_allclose(of["delta_mag"], change)
    assert (np.abs(change) >= 0.1).all()
    assert (np.abs(change) <= 2.0).all()
    for values in (science, reference):
        assert (np.abs(2.5 * np.log10((base + values) / base)) <= 2.0 + 1e-9).all()
    np.testing.assert_array_equal(np.sign(science - reference), np.sign(of["snr"]))
    np.testing.assert_allclose(
        (science - reference) / flux_error_at(frame, of["x_pix"], of["y_pix"]), of["snr"]
    )
    assert (reference[of["injected_in"] == INJECTED_IN["science"]] == 0).all()
    assert (science[of["injected_in"] == INJECTED_IN["reference"]] == 0).all()
    sources = frame.reference_sources
    off = np.hypot(of["x_pix"][:, None] - sources.x_pix, of["y_pix"][:, None] - sources.y_pix)
    assert off.min(axis=1).max() == 0
    star = off.argmin(axis=1)
    np.testing.assert_allclose(base, flux_in_science(frame, sources)[star])
    assert not np.isin(sources.x_pix[star], frame.hosts.x_pix).any()
    assert not sources.saturated[star].any()


def test_variables_without_a_star_are_rows_with_a_flag(frame):
    stars = drawn(frame, {"variable": {"share": 1.0, "star_snr_min": 1e9}}, InjectConfig(stars_per_frame=5))
    assert len(stars["flag"]) == 5 * InjectConfig().realisations
    assert (stars["flag"] == INJECTION_FLAG["NO_STAR"]).all()
    assert np.isnan(stars["x_pix"]).all()
    assert (stars["flux_adu"] == 0).all()


def test_trails_are_rate_times_exposure_over_the_pixel_scale(frame):
    rates = {"rate_min_arcsec_per_s": 0.05, "rate_max_arcsec_per_s": 1.0}
    table = {"moving": {"share": 1.0, **rates}}
    stars = drawn(frame, table)
    scale = np.sqrt(abs(np.linalg.det(frame.science.wcs.pixel_scale_matrix))) * 3600
    rate = stars["trail_length_pix"] * scale / frame.science.exposure_s
    uniform = np.log(rate / 0.05) / np.log(20)
    assert len(rate) > 500
    assert uniform.min() > -1e-6
    assert uniform.max() < 1 + 1e-6
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.kstest(stars["trail_angle_deg"] / 180, "uniform").pvalue > 1e-3
    double = drawn(frame, table, dataclasses.replace(MANY, exposure_s=2 * frame.science.exposure_s))
    assert np.median(double["trail_length_pix"]) == pytest.approx(
        2 * np.median(stars["trail_length_pix"]), rel=0.1
    )


def test_trails_for_which_there_is_no_room_are_rows_and_do_not_keep_others_out(frame):
    rates = {"rate_min_arcsec_per_s": 0.05, "rate_max_arcsec_per_s": 3000.0}
    stars = drawn(frame, {"moving": {"share": 1.0, **rates}}, InjectConfig(stars_per_frame=8, realisations=8))
    length, placed = stars["trail_length_pix"], np.isfinite(stars["x_pix"])
    assert len(length) == 64
    assert (stars["flag"] == np.where(placed, 0, INJECTION_FLAG["CROWDED"])).all()
    assert (stars["flux_adu"][~placed] == 0).all()
    assert (length > 1000).sum() > 10
    assert placed[length < 20].mean() > 0.8
    assert (~placed).sum() > 5


@pytest.mark.parametrize("lost", [{"wcs": None}, {"exposure_s": float("nan")}])
def test_trails_of_unknown_length_are_rows_with_a_flag_unless_an_option_says_it(frame, lost):
    blind = dataclasses.replace(frame, science=dataclasses.replace(frame.science, **lost))
    config = InjectConfig(stars_per_frame=6, realisations=1)
    stars = drawn(blind, {"moving": {"share": 1.0}}, config)
    assert (stars["flag"] == INJECTION_FLAG["NO_SCALE"]).all()
    assert len(stars["flag"]) == 6
    given = dataclasses.replace(config, pixel_scale_arcsec=1.189, exposure_s=frame.science.exposure_s)
    told, seen = (
        drawn(blind, {"moving": {"share": 1.0}}, given),
        drawn(frame, {"moving": {"share": 1.0}}, config),
    )
    assert (told["flag"] == 0).all()
    np.testing.assert_allclose(told["trail_length_pix"], seen["trail_length_pix"], rtol=1e-3)


def test_flares_and_glints_need_a_cube(frame, monkeypatch):
    table = {"flare": {"share": 0.5, "n_frames_min": 2, "n_frames_max": 4}, "glint": {"share": 0.5}}
    stars = drawn(frame, table)
    assert (stars["flag"] == INJECTION_FLAG["NO_CUBE"]).all()
    monkeypatch.setattr(population_module, "has_cube", lambda _: True)
    stars = drawn(frame, table)
    assert (stars["flag"] == 0).all()
    glint = stars["kind"] == KIND_CODES["injected_glint"]
    assert (stars["n_cube_frames"][glint] == 1).all()
    counts = np.bincount(stars["n_cube_frames"][~glint])
    assert len(counts) == 5
    assert counts[:2].sum() == 0
    assert stats.chisquare(counts[2:]).pvalue > 1e-3


def test_lights_have_all_that_was_asked_and_only_finite_numbers_where_drawn(frame):
    stars = ask_for_stars(frame, MANY, load_population("survey"), None, key=3)[0]
    lights = lights_of(stars)
    np.testing.assert_array_equal(lights.trail_length_pix, stars.trail_length_pix)
    good = lights.flag == 0
    for field in dataclasses.fields(lights):
        assert np.isfinite(getattr(lights, field.name)[good]).all(), field.name


def test_the_same_stars_behind_clouds_keep_all_but_their_light(frame):
    stars = ask_for_stars(frame, MANY, load_population("variables"), None, key=3)[0]
    error = np.full(len(stars), 200.0)
    error[0] = np.inf
    lost = np.arange(len(stars)) == 1
    dim = dimmed(stars, 0.5, flux_error_adu=error, is_lost=lost)
    np.testing.assert_allclose(dim.net_flux_adu, 0.5 * stars.net_flux_adu)
    np.testing.assert_allclose(dim.snr[1:], dim.net_flux_adu[1:] / 200)
    assert dim.snr[0] == 0
    assert (stars.flag == 0).all()
    assert dim.flag.tolist() == [INJECTION_FLAG["ON_MASK"]] * 2 + [0] * (len(stars) - 2)
    for name in ("x_pix", "y_pix", "kind", "delta_mag", "injected_in"):
        np.testing.assert_array_equal(getattr(dim, name), getattr(stars, name))


def detections(x, y, snr):
    x, y, snr = (np.asarray(values, float) for values in (x, y, snr))
    return Detections(x, y, snr, snr * 10, np.full(len(x), 10.0), np.full(len(x), 0.1), snr > 0)


def test_trails_match_along_their_line_and_fading_stars_match_negatives(frame):
    asked = ask(
        np.array([100.0, 60.0, 200.0]),
        np.array([100.0, 60.0, 200.0]),
        np.array(
            [KIND_CODES["injected_moving"], KIND_CODES["injected_variable"], KIND_CODES["injected_random"]]
        ),
        np.array([900.0, -400.0, 500.0]),
        np.array([30.0, -20.0, 20.0]),
        trail_length_pix=np.array([40.0, 0, 0]),
        trail_angle_deg=np.array([90.0, 0, 0]),
    )
    # The trail breaks into two; a negative lies on the new star, a positive on the faded one.
    found = detections(
        [100.4, 99.8, 60.1, 60.0, 200.0, 200.1],
        [88.0, 116.0, 60.1, 60.0, 200.0, 199.9],
        [9, 12, 8, -15, -7, 19],
    )
    none = detections([], [], [])
    matches = match_asked(frame, asked, np.ones(3, bool), found, none, InjectConfig())
    assert matches.detection.tolist() == [1, 3, 5]
    assert matches.separation_pix[0] == pytest.approx(0.2)
    assert sorted(matches.unmatched) == [0, 2]
    undrawn = match_asked(frame, asked, np.zeros(3, bool), found, none, InjectConfig())
    assert (undrawn.detection == -1).all()
    nothing = match_asked(frame, asked, np.ones(3, bool), none, none, InjectConfig())
    assert (nothing.detection == -1).all()


def test_a_file_of_the_user_is_read_by_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[one]\nrandom.share = 1.0\n")
    assert load_population(str(path)) == load_population(f"{path}:one")
    assert load_population(str(path)).random.share == 1
    path.write_text(path.read_text() + "[two]\nmoving.share = 1.0\n")
    assert load_population(f"{path}:two").moving.share == 1
    with pytest.raises(InputError, match=r"has populations one, two; give .*mine.toml:NAME"):
        load_population(str(path))
    with pytest.raises(InputError, match=r"mine.toml: population 'three' is not known; there are one, two"):
        load_population(f"{path}:three")
    path.write_text("[one\n")
    with pytest.raises(InputError, match="is not valid TOML"):
        load_population(str(path))
    with pytest.raises(InputError, match="no such file"):
        load_population(str(tmp_path / "none.toml"))
    path.write_text("")
    with pytest.raises(InputError, match=r"mine.toml: has no populations; each is a table"):
        load_population(str(path))
    path.write_text("[one]\nrandom.share = 0.5\n")
    with pytest.raises(InputError, match=r"mine.toml: population one: shares of its kinds add up to 0.5"):
        load_population(str(path))


def test_unknown_populations_list_the_known_ones():
    with pytest.raises(
        InputError, match=r"population 'sky' is not known; there are .*stars, survey.*FILE.toml:NAME"
    ):
        load_population("sky")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("comet.share = 1.0", "own: unknown keys comet; known are description, random"),
        ("random.share = 1.0\nrandom.size = 2", "own.random: unknown keys size; the keys are share"),
        ("moving.rate_min_arcsec_per_s = 1.0", "own.moving: share is missing"),
        ("random = 1.0", "own.random is 1.0; it must be a table"),
        ("random.share = '1'", "own.random: share is '1'; it must be of type float"),
        ("random.share = true", "share is True"),
        ("flare.share = 1.0\nflare.n_frames_max = 2.5", "n_frames_max is 2.5; it must be of type int"),
        ("random.share = 0.7", "shares of its kinds add up to 0.7; they must make 1"),
        ("random.share = 1.5\nmoving.share = -0.5", "random.share is 1.5; allowed: 0 to 1"),
        ("variable.share = 1.0\nvariable.in_both = 0.5", "variable: in_science, .* add up to 1.5"),
        ("variable.share = 1.0\nvariable.delta_mag_min = 4.0", "variable.delta_mag_min is 4.0; allowed"),
        ("variable.share = 1.0\nvariable.star_snr_min = 1", "variable.star_snr_min is 1; allowed: 5 or more"),
        ("moving.share = 1.0\nmoving.rate_min_arcsec_per_s = 0.0", "rate_min_arcsec_per_s is 0.0; allowed"),
        ("flare.share = 1.0\nflare.n_frames_min = 9", "flare.n_frames_min is 9; allowed: 1 to n_frames_max"),
        (
            "near_galaxy.share = 1.0\nnear_galaxy.offset_max_radii = 0",
            "offset_max_radii is 0; allowed: positive",
        ),
        ("random.share = nan", "random.share is nan; allowed"),
        (
            "near_galaxy.share = 1.0\nnear_galaxy.offset_max_radii = inf",
            "is inf; allowed: positive and finite",
        ),
        ("variable.share = 1.0\nvariable.delta_mag_max = inf", "delta_mag_min is 0.02; .*, which is finite"),
        ("variable.share = 1.0\nvariable.star_snr_min = inf", "star_snr_min is inf; allowed: 5 or more"),
        ("description = 5\nrandom.share = 1.0", "description is 5; it must be text"),
    ],
)
def test_slips_in_a_population_are_named(text, message):
    with pytest.raises(InputError, match=message):
        population_from_table(tomllib.loads(text), "own")


def test_a_population_survives_its_own_dictionary():
    population = load_population("survey")
    table = population.as_dict()
    name = table.pop("name")
    assert population_from_table(table, name) == population
    assert isinstance(population, Population)
