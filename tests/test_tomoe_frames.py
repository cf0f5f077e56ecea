"""Stacks and cubes of Tomo-e in runs: references by dither, exposures by number, the right electrons."""

import numpy as np
import pytest
from _star_field import draw_field, make_field
from _tomoe_files import CUBE, STACK, cards_of, write_file

from rbsim import run
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.frame import read_frame
from rbsim.inputs import find_frames, frame_tasks
from rbsim.references import find_reference, read_cards
from rbsim.schema import MASK
from rbsim.store import open_store

SHAPE = (256, 300)
GAIN = 0.23
HIGH = "GAINCNFG= 'high'\n"
FIELD = make_field(shape=SHAPE, n_stars=90, flux=(2_000, 30_000))


def stack_of(n=17, *, seed=2, shift=(0.0, 0.0)):
    """What a mean of n frames holds: its light has n times the electrons per ADU."""
    image = draw_field(FIELD, shape=SHAPE, sky_adu=60.0, gain=GAIN * n, fwhm_pix=2.8, shift=shift, seed=seed)
    noise = np.random.default_rng(seed).normal(0, 2.0 / GAIN / np.sqrt(n), SHAPE)
    return (image + noise).astype(np.float32)


def frame_id(exposure, *, quadrant=1, chip=11):
    return f"TMQ{quadrant}20230102{exposure:08d}{chip:02d}"


def write_stack(path, *, more="", image=None, **values):
    data = stack_of() if image is None else image
    return write_file(path, cards_of(STACK | values, more=HIGH + more), data)


def wcs_at(x_pix):
    """The same sky, its reference point at x."""
    return (
        f"CTYPE1  = 'RA---TAN'\nCTYPE2  = 'DEC--TAN'\nCRVAL1  = 50.5\nCRVAL2  = 59.4\nCRPIX1  = {x_pix}\n"
        "CRPIX2  = 128.0\nCD1_1   = -3.303E-04\nCD1_2   = 0.0\nCD2_1   = 0.0\nCD2_2   = 3.303E-04\n"
    )


def test_without_wcs_dithers_of_a_field_have_references_of_their_own(tmp_path):
    paths = [write_stack(tmp_path / f"{i}.fits", object=f"J0322+5925_dith{i}") for i in (1, 2)]
    cards = read_cards(paths)
    for i in (1, 2):
        frame = read_frame(write_stack(tmp_path / "f.fits", object=f"J0322+5925_dith{i}"))
        assert find_reference(cards, frame) == i - 1
    other = read_frame(write_stack(tmp_path / "f.fits", object="J0322+5925_dith3"))
    with pytest.raises(InputError, match=r"no reference for field J0322\+5925, sensor 111"):
        find_reference(cards, other)
    assert find_reference(cards[:1], other) == 0
    twice = write_stack(tmp_path / "again.fits", object="J0322+5925_dith2")
    with pytest.raises(InputError, match=r"again\.fits: is of field J0322\+5925, sensor 111 like .*2\.fits"):
        read_cards([*paths, twice])


def test_with_wcs_the_dither_that_overlaps_most_serves(tmp_path):
    """Also against its number: a pointing may have been off. Without dither two places are told by WCS."""
    paths = [
        write_stack(tmp_path / f"{i}.fits", object="J0322+5925", more=wcs_at(x))
        for i, x in enumerate((150.0, 290.0))
    ]
    cards = read_cards(paths)
    for name, x, wanted in (("_dith1", 160.0, 0), ("_dith1", 280.0, 1), ("", 240.0, 1)):
        frame = read_frame(write_stack(tmp_path / "f.fits", object=f"J0322+5925{name}", more=wcs_at(x)))
        assert find_reference(cards, frame) == wanted
    near = write_stack(tmp_path / "near.fits", object="J0322+5925", more=wcs_at(152.0))
    with pytest.raises(InputError, match=r"near\.fits: is of field .* like .*0\.fits"):
        read_cards([paths[0], near])


def test_sensors_of_an_exposure_are_one_exposure_whatever_their_time_stamps(tmp_path):
    names = []
    for exposure in (860262, 860263):
        for quadrant in (1, 4):
            path = tmp_path / f"s{frame_id(exposure, quadrant=quadrant)}.fits"
            time = f"09:{exposure - 860220}:14.66502{quadrant}"
            write_stack(path, frame_id=frame_id(exposure, quadrant=quadrant), time=time)
            names.append(str(path))
    tasks = frame_tasks(find_frames([tmp_path]), InjectConfig(), None, None, "ref.fits")
    assert [task.path for task in tasks] == [names[i] for i in (0, 1, 2, 3)]
    assert [task.exposure for task in tasks] == [0, 0, 1, 1]


def test_injection_into_stacks_knows_their_electrons(tmp_path):
    """The whole way, without WCS and without any option: sensor, gain of the mean, noise as expected."""
    write_stack(tmp_path / "ref.fits", image=stack_of(170, seed=5))
    frames = [
        str(
            write_stack(
                tmp_path / f"s{frame_id(860262 + i)}.fits",
                image=stack_of(seed=20 + i, shift=(0.4 * i, 0.3)),
                frame_id=frame_id(860262 + i),
                time=f"09:4{i}:14.665023",
            )
        )
        for i in range(2)
    ]
    config = InjectConfig(stars_per_frame=8, realisations=1, near_galaxy=0.0, tile_pix=100)
    run.run_injection(frames, tmp_path / "ref.fits", tmp_path / "out.zarr", config)
    store = open_store(tmp_path / "out.zarr")
    assert store.column("frames/ok").all(), store.frame_reasons
    np.testing.assert_allclose(store.column("frames/gain_e_per_adu"), 17 * GAIN, rtol=1e-6)
    assert set(store.column("frames/sensor")) == {111}
    np.testing.assert_allclose(store.column("frames/snr_scale"), 1, atol=0.15)


def test_a_stack_that_is_a_sum_is_noticed_by_its_noise(tmp_path, caplog):
    mean = stack_of()
    read_frame(write_stack(tmp_path / "mean.fits", image=mean))
    read_frame(write_stack(tmp_path / "no_sky.fits", image=mean - 60))
    assert "if it is a sum" not in caplog.text
    for factor in (17, 1 / 17):  # the light changes, the electrons do not
        read_frame(write_stack(tmp_path / "sum.fits", image=mean * factor))
        assert "sum.fits: the noise of its sky is" in caplog.text
        caplog.clear()


def test_stars_in_a_cube_are_written_as_a_stack_that_reads_the_same(tmp_path):
    """And a glint in one frame of the archive's own cube is marked."""
    n = 6
    planes = np.stack([stack_of(1, seed=40 + i) for i in range(n)])
    planes[2, 100:103, 200:203] += 6_000
    cards = cards_of(CUBE | {"exptime": str(n * 0.499904), "frame_id": frame_id(7)}, more=HIGH)
    cube = write_file(tmp_path / f"r{frame_id(7)}.fits", cards, planes)
    write_stack(tmp_path / "ref.fits", image=stack_of(170, seed=5))
    config = InjectConfig(stars_per_frame=5, realisations=1, near_galaxy=0.0, tile_pix=100)
    run.run_injection(
        [str(cube)], tmp_path / "ref.fits", tmp_path / "out.zarr", config, images=tmp_path / "images"
    )
    frame = read_frame(cube)
    assert frame.mask[101, 201] & MASK["ONE_FRAME"]
    assert (frame.sensor, frame.cube.n_frames) == (111, n)
    image = read_frame(tmp_path / "images" / f"r{frame_id(7)}.r0.fits")
    for name in ("gain_e_per_adu", "read_noise_e", "saturation_adu"):
        assert getattr(image.detector, name) == pytest.approx(getattr(frame.detector, name), rel=1e-4)
    assert image.detector.gain_e_per_adu == pytest.approx(n * GAIN)
    assert image.exposure_s == pytest.approx(n * 0.499904)


def test_a_damaged_frame_of_a_cube_is_named(tmp_path):
    planes = np.stack([stack_of(1, seed=i) for i in range(5)])
    for spoil, share in ((np.nan, "39%"), (0.0, "39%")):
        planes[3, 100:200] = spoil
        path = write_file(
            tmp_path / "c.fits", cards_of(CUBE | {"exptime": str(5 * 0.499904)}, more=HIGH), planes
        )
        with pytest.raises(InputError, match=rf"c\.fits: frame 4 of 5 is damaged \({share} of its lines"):
            read_frame(path)
    planes[:, 100:200] = np.nan  # of all frames: the detector is like that
    path = write_file(tmp_path / "c.fits", cards_of(CUBE | {"exptime": str(5 * 0.499904)}, more=HIGH), planes)
    assert read_frame(path).bad[150].all()
