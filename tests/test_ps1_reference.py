"""References from PS1: made for frames, kept when nothing has changed, refused with the remedy; commands."""

import json
from dataclasses import astuple, replace

import numpy as np
import pytest
from _ps1_field import no_galaxies, sensor_wcs, stars
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from cli import app
from rbsim.cause import TrueArtefacts
from rbsim.cluster import workers_of
from rbsim.emulate.tomoe.ps1_files import write_skycell
from rbsim.emulate.tomoe.ps1_images import emulate_skycells, skycell_parts
from rbsim.errors import InputError
from rbsim.parallel import Parallel
from rbsim.ps1.reference import list_needed, make_references, read_target
from rbsim.ps1.warp import WarpConfig
from rbsim.reference import load_reference
from rbsim.references import find_reference, read_cards
from rbsim.skycell_truth import find_all_artefacts, moved

SHAPE = (200, 240)
WCS = sensor_wcs(SHAPE)


def write_frame(path, wcs=WCS, *, field="J2210+0212_dith1", sensor=111, shape=SHAPE):
    header = wcs.to_header(relax=True) if wcs is not None else fits.Header()
    header["OBJECT"], header["DET_ID"] = field, sensor
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.writeto(path, np.random.default_rng(1).normal(100, 5, shape).astype(np.float32), header)
    return path


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A frame of a sensor and the skycells of its field, emulated."""
    folder = tmp_path_factory.mktemp("night")
    frame = write_frame(folder / "science" / "sTMQ1.fits")
    rng = np.random.default_rng(2)
    n = 150
    field = stars(rng.uniform(-5, 245, n), rng.uniform(-5, 205, n), rng.uniform(13, 19, n), WCS)
    parts = skycell_parts([(sensor_wcs((260, 300)), (260, 300))])
    rows = []
    for cell in emulate_skycells(field, no_galaxies(WCS), parts, rng=rng, epoch_yr=2023.0):
        name = write_skycell(folder / "ps1", cell).name
        rows += [(name, *astuple(row)) for row in cell.rows]
    names = ("frame", "class", "x_pix", "y_pix", "strength", "single_frame", "length_pix", "angle_deg")
    Table(rows=rows, names=names).write(folder / "artefacts.ecsv")
    return folder, frame, field


def test_a_reference_is_made_loaded_and_found_for_its_frame(night, tmp_path):
    folder, frame, field = night
    (made,), failed = make_references([frame], folder / "ps1", tmp_path / "ref.fits")
    assert made.state == "written"
    assert not failed
    assert made.skycells == ("skycell.1405.053",)
    assert made.missing == ()
    assert 0 < made.masked_share < 0.1
    # The wt images do not know of the correlation of the pixels: 1 / (0.8^2 + 2 * 0.1^2) in sigma;
    # with 30,000 stars per square degree some of them are in the scatter, too.
    assert 1.4 < made.noise_ratio < 2
    header = fits.getheader(tmp_path / "ref.fits")
    assert header["OBJECT"] == "J2210+0212"
    assert header["PS1BAND"] == "r"
    reference = load_reference(tmp_path / "ref.fits")
    assert 1.7 < reference.fwhm_pix < 2.5
    cards = read_cards([tmp_path / "ref.fits"])
    assert find_reference(cards, reference.frame) == 0
    # Photometry of stars in between the masks.
    x, y = WCS.world_to_pixel_values(field.ra_deg, field.dec_deg)
    sources = reference.sources
    found = []
    for at_x, at_y, mag in zip(x, y, field.mag, strict=True):
        near = np.hypot(sources.x_pix - at_x, sources.y_pix - at_y) < 1
        alone = np.hypot(x - at_x, y - at_y) < 12
        if near.sum() == 1 and alone.sum() == 1 and 15 < mag < 18:
            found.append(reference.frame.zero_point_mag - 2.5 * np.log10(sources.flux_adu[near][0]) - mag)
    assert len(found) > 10
    assert abs(np.median(found)) < 0.1  # of an aperture


def test_what_skycells_have_masked_is_known_on_the_reference(night, tmp_path):
    """Where the rows of skycells say that PS1 has no value, the reference has none."""
    folder, frame, _ = night
    path = tmp_path / "ref.fits"
    make_references([frame], folder / "ps1", path)
    _, artefacts = find_all_artefacts(folder / "truth.ecsv", [str(path)])
    rows = artefacts["ref.fits"]
    image = fits.getdata(path)
    x, y = np.rint(rows.x_pix).astype(int), np.rint(rows.y_pix).astype(int)
    inside = (x >= 0) & (x < image.shape[1]) & (y >= 0) & (y < image.shape[0])
    # A pixel with less than a quarter masked has a value, and so have those of negative rows.
    large = inside & (rows.strength > 1)
    assert large.sum() > 15
    assert np.isnan(image[y[large], x[large]]).mean() > 0.9
    # By chance there are hardly any.
    assert np.isnan(image[(y[large] + 30) % image.shape[0], x[large]]).mean() < 0.3
    # A reference of something else, and a night without skycells, have no such rows.
    other = write_frame(tmp_path / "other.fits")
    assert "other.fits" not in find_all_artefacts(folder / "truth.ecsv", [str(other)])[1]
    assert find_all_artefacts(None, [str(path)]) == (None, None)


def test_lines_keep_their_ends_on_another_grid():
    """A grid of half the pixel scale, turned by 90 deg: a line of 20 px along x has 10 along y."""
    other = WCS.deepcopy()
    other.wcs.cd = (WCS.pixel_scale_matrix @ [[0, -2], [2, 0]]).tolist()
    none = np.array([np.nan])
    line = TrueArtefacts(*(np.array([v]) for v in (7, 120.0, 100.0, -5.0, 20.0, 0.0)))
    there = moved(line, WCS, other)
    assert there.length_pix == pytest.approx(10, abs=1e-3)
    assert np.abs(there.angle_deg) == pytest.approx(90, abs=0.01)
    back = moved(there, other, WCS)
    for name, values in vars(line).items():
        np.testing.assert_allclose(np.abs(getattr(back, name)), np.abs(values), atol=1e-3)
    disc = moved(replace(line, length_pix=none, angle_deg=none), WCS, other)
    assert np.isnan(disc.length_pix).all()
    assert np.isnan(disc.angle_deg).all()


def test_a_second_time_it_is_kept_and_a_change_is_seen(night, tmp_path):
    folder, frame, _ = night
    cells = tmp_path / "ps1"
    cells.mkdir()
    for path in (folder / "ps1").iterdir():
        (cells / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "refs"
    (first,), _ = make_references([frame], cells, out)
    assert first.path == str(out / "ps1_J2210+0212_111.fits")
    content = (out / "ps1_J2210+0212_111.fits").read_bytes()
    (again,), _ = make_references([frame], cells, out)
    assert again.state == "kept"
    assert again.masked_share == pytest.approx(first.masked_share)
    assert (out / "ps1_J2210+0212_111.fits").read_bytes() == content
    with pytest.raises(InputError, match="exists and is not up to date; give --overwrite"):
        make_references([frame], cells, out, config=WarpConfig(smoothing_fwhm_pix=0))
    (other,), _ = make_references(
        [frame], cells, out, config=WarpConfig(smoothing_fwhm_pix=0), overwrite=True
    )
    assert other.state == "written"
    mask = next(cells.glob("*.mask.fits"))
    with fits.open(mask, mode="update") as hdus:
        hdus[1].header["HISTORY"] = "changed"
    with pytest.raises(InputError, match="not up to date"):
        make_references([frame], cells, out, config=WarpConfig(smoothing_fwhm_pix=0))


def test_one_reference_per_field_and_sensor_with_a_margin(night, tmp_path):
    folder, frame, _ = night
    dither = write_frame(tmp_path / "dither.fits", field="J2210+0212_dith2")
    other = write_frame(tmp_path / "other.fits", sensor=112)
    lost = write_frame(tmp_path / "lost.fits", None, sensor=113)
    far = write_frame(tmp_path / "far.fits", sensor_wcs(SHAPE, ra=10.0), sensor=114)
    made, failed = make_references(
        [frame, dither, other, lost, far], folder / "ps1", tmp_path / "out", margin_pix=10
    )
    assert [one.path.rpartition("_")[2] for one in made] == ["111.fits", "112.fits"]
    assert "has no celestial WCS" in failed[str(lost)]
    assert "no skycell of band r overlaps" in failed["far.fits"]
    assert "it needs skycell." in failed["far.fits"]
    with fits.open(made[0].path) as hdus:
        assert hdus[0].data.shape == (220, 260)
        image = next((folder / "ps1").glob("*unconv.fits"))
        assert hdus["COVERAGE"].data.max() == fits.getheader(image, 1)["EXPTIME"] / 40
        grown = read_target(made[0].path)
    np.testing.assert_allclose(
        grown.wcs.pixel_to_world_values(10.0, 10.0), WCS.pixel_to_world_values(0.0, 0.0), atol=1e-9
    )


def test_two_workers_make_what_one_process_makes(night, tmp_path):
    folder, frame, _ = night
    frames = [frame, write_frame(tmp_path / "other.fits", sensor_wcs(SHAPE, dec=2.21), sensor=112)]
    make_references(frames, folder / "ps1", tmp_path / "one")
    with workers_of(Parallel(2)) as run:
        made, failed = make_references(frames, folder / "ps1", tmp_path / "two", run=run)
    assert len(made) == 2
    assert not failed
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_what_cannot_be_made_leaves_nothing_behind(night, tmp_path):
    folder, frame, _ = night
    far = write_frame(tmp_path / "far.fits", sensor_wcs(SHAPE, ra=10.0))
    with pytest.raises(InputError, match=r"no skycell of band r overlaps with it .*; it needs skycell"):
        make_references([far], folder / "ps1", tmp_path / "out")
    cells = tmp_path / "masked"
    cells.mkdir()
    for path in (folder / "ps1").iterdir():
        (cells / path.name).write_bytes(path.read_bytes())
    mask = next(cells.glob("*.mask.fits"))
    with fits.open(mask, mode="update") as hdus:
        hdus[1].data |= np.uint16(0x0008)
    with pytest.raises(InputError, match=r"sTMQ1.fits: all pixels of skycell.1405.053 .* are masked"):
        make_references([frame], cells, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="band is 'q'; PS1 has g, r, i, z, y"):
        make_references([frame], folder / "ps1", tmp_path / "out", band="q")
    two = write_frame(tmp_path / "two.fits", sensor=112)
    with pytest.raises(InputError, match="is one file, the frames need 2 references; give a folder"):
        make_references([frame, two], folder / "ps1", tmp_path / "out.fits")
    south = write_frame(tmp_path / "south.fits", sensor_wcs(SHAPE, dec=-40.0))
    with pytest.raises(InputError, match=r"south.fits: reaches declination -40.*north of -30"):
        list_needed([south])
    broken = next(cells.glob("*unconv.fits"))
    broken.write_bytes(broken.read_bytes()[:20000])
    with pytest.raises(InputError, match="cannot be read as FITS"):
        make_references([frame], cells, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_lists_and_makes(night, tmp_path):
    folder, frame, _ = night
    run = CliRunner()
    listed = run.invoke(app, ["reference", "ps1", str(frame), "--list", "--band", "i"])
    assert listed.exit_code == 0
    url = "https://ps1images.stsci.edu/rings.v3.skycell/1405/053/rings.v3.skycell.1405.053.stk.i.unconv.mask.fits"
    assert url in listed.stdout
    assert len(listed.stdout.splitlines()) == 4
    rows = json.loads(run.invoke(app, ["reference", "ps1", str(frame), "--list", "--json"]).stdout)["files"]
    assert {row["kind"] for row in rows} == {"image", "mask", "wt", "num"}
    lacking = run.invoke(app, ["reference", "ps1", str(frame)])
    assert lacking.exit_code == 1
    assert "give --skycells and --out, or --list" in lacking.stderr
    arguments = ["reference", "ps1", str(frame), "--skycells", str(folder / "ps1"), "--out"]
    made = run.invoke(app, [*arguments, str(tmp_path / "ref.fits")])
    assert made.exit_code == 0
    assert "reference written" in made.stdout
    assert (tmp_path / "ref.fits").exists()
    kept = run.invoke(app, [*arguments, str(tmp_path / "ref.fits"), "--json"])
    assert json.loads(kept.stdout)["references"][0]["state"] == "kept"
