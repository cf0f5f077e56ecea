"""The map of Tomo-e's sensors: complete, without overlap, symmetric, and honest about what is guessed."""

import numpy as np
import pytest

import catalogs
from rbsim.errors import InputError
from rbsim.tomoe.sensors import beam_efficiency, field_positions, find_sensors, read_sensors

SENSORS = list(read_sensors().values())
PUBLISHED_CHIPS = {11, 12, 13, 14, 21, 22, 23, 24, 31, 32, 43}


def corners(sensor):
    return np.column_stack(field_positions(sensor, np.array([-0.5, 1999.5]), np.array([-0.5, 1127.5])))


def test_84_sensors_in_4_quadrants_with_the_published_numbers():
    assert len(SENSORS) == 84
    for quadrant in (1, 2, 3, 4):
        assert sum(sensor.quadrant == quadrant for sensor in SENSORS) == 21
    assert all(sensor.det_id == 100 * sensor.quadrant + sensor.chip for sensor in SENSORS)
    assert {sensor.chip for sensor in SENSORS if sensor.code_published} == PUBLISHED_CHIPS


def test_sensors_lie_in_the_field_and_do_not_overlap():
    boxes = np.array([np.sort(corners(sensor), axis=0) for sensor in SENSORS])  # (84, low/high, x/y)
    size_arcmin = (boxes[:, 1] - boxes[:, 0]) * 60
    np.testing.assert_allclose(size_arcmin, np.tile([39.7, 22.4], (84, 1)), atol=0.1)
    far = np.hypot(*np.abs(boxes).max(axis=1).T)
    assert far.max() < 4.5
    assert np.prod(size_arcmin / 60, axis=1).sum() == pytest.approx(20.8, abs=0.2)  # deg^2, published
    apart = (boxes[:, None, 0] >= boxes[None, :, 1]).any(axis=-1)
    assert (apart | apart.T | np.eye(84, dtype=bool)).all()


def test_quadrants_are_mirror_images_of_each_other():
    """Pixels count outwards from the field's centre in each of them, so all four orientations occur."""
    inner = {(s.quadrant, s.chip): np.abs(corners(s)[0]) for s in SENSORS}
    outer = {(s.quadrant, s.chip): np.abs(corners(s)[1]) for s in SENSORS}
    for (quadrant, chip), at in inner.items():
        np.testing.assert_allclose(at, inner[1, chip], atol=1e-9)
        assert (outer[quadrant, chip] > at).all()
    assert len({(s.rotation_deg, s.flip) for s in SENSORS}) == 4


def test_light_falls_beyond_2_deg_to_half_at_the_edge():
    np.testing.assert_allclose(beam_efficiency(np.array([0.0, 2.0, 4.5, 6.0])), [1, 1, 0.5, 0.5])
    radius = np.linspace(2, 4.5, 20)
    assert (np.diff(beam_efficiency(radius)) < 0).all()
    at = np.hypot([s.x_field_deg for s in SENSORS], [s.y_field_deg for s in SENSORS])
    np.testing.assert_allclose([s.beam_efficiency for s in SENSORS], beam_efficiency(at), atol=1e-4)


def test_the_table_says_what_is_guessed():
    table = catalogs.read_table("sensors.ecsv")
    assert "guessed" in " ".join(table.meta["about"])
    assert all(table[name].description for name in table.colnames)
    assert table["x_field_deg"].unit == "deg"


def test_unknown_sensors_are_refused_with_the_known_ones():
    assert [s.det_id for s in find_sensors([443, 111])] == [443, 111]
    with pytest.raises(InputError, match=r"sensor 199, 500 is not known; there are 111, 112, .*, 461"):
        find_sensors([111, 199, 500])
    with pytest.raises(InputError, match=r"'chips.ecsv' is not known; there are .*sensors.ecsv"):
        catalogs.read_table("chips.ecsv")
