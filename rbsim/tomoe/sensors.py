"""The 84 sensors of Tomo-e Gozen: their numbers, where they sit in the field, how much light reaches them.

What is published and what is guessed is said in the head of ``catalogs/sensors.ecsv``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import catalogs
from rbsim.errors import InputError

PIXEL_SCALE_ARCSEC = 1.189
SHAPE_PIX = (1128, 2000)
"""(ny, nx) of the photosensitive pixels, read out in full."""
FIELD_RADIUS_DEG = 4.5
UNVIGNETTED_RADIUS_DEG = 2.0
EDGE_EFFICIENCY = 0.5


@dataclass(frozen=True)
class Sensor:
    """One of the 84 sensors.

    Attributes
    ----------
    det_id : int
        100 times the quadrant plus the chip, as in the card DET_ID.
    quadrant, chip : int
    x_field_deg, y_field_deg : float
        Of its centre from that of the field, on the tangent plane; with north up, x grows to the west.
    rotation_deg : float
        From the field's axes to those of the pixels, anticlockwise.
    flip : bool
        The pixels' x axis is mirrored (before the rotation).
    beam_efficiency : float
        Share of the light at the centre of the field that reaches the centre of the sensor.
    code_published : bool
        The number of its chip was seen in a published header; else it is guessed.
    """

    det_id: int
    quadrant: int
    chip: int
    x_field_deg: float
    y_field_deg: float
    rotation_deg: float
    flip: bool
    beam_efficiency: float
    code_published: bool


def read_sensors() -> dict[int, Sensor]:
    """All sensors by their DET_ID, in its order."""
    table = catalogs.read_table("sensors.ecsv")
    sensors = (Sensor(**{name: row[name].item() for name in table.colnames}) for row in table)
    return {sensor.det_id: sensor for sensor in sensors}


def find_sensors(det_ids: Sequence[int]) -> tuple[Sensor, ...]:
    """Sensors of some numbers, in the order given.

    Raises
    ------
    InputError
        If one is unknown; the message lists the known ones.
    """
    known = read_sensors()
    unknown = [str(det_id) for det_id in det_ids if det_id not in known]
    if unknown:
        raise InputError(f"sensor {', '.join(unknown)} is not known; there are {', '.join(map(str, known))}")
    return tuple(known[det_id] for det_id in det_ids)


def beam_efficiency(radius_deg: np.ndarray) -> np.ndarray:
    """Share of the light at the centre of the field that arrives at a distance from it; shape as given.

    Published are its two ends: it falls beyond 2 deg, and at the very edge 50 % are left (Tomo-e's page of
    specifications). The straight line between them is a guess.
    """
    share = (np.asarray(radius_deg) - UNVIGNETTED_RADIUS_DEG) / (FIELD_RADIUS_DEG - UNVIGNETTED_RADIUS_DEG)
    return np.asarray(1 - (1 - EDGE_EFFICIENCY) * np.clip(share, 0, 1))


def field_positions(
    sensor: Sensor, x_pix: np.ndarray, y_pix: np.ndarray, *, shape: tuple[int, int] = SHAPE_PIX
) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels are in the field.

    Parameters
    ----------
    sensor : Sensor
    x_pix, y_pix : ndarray
        0-based, of any shape.
    shape : (ny, nx)
        Of the image; its middle is that of the sensor.

    Returns
    -------
    x_field_deg, y_field_deg : ndarray
        As of `Sensor`, of the shape given.
    """
    ny, nx = shape
    along = (np.asarray(x_pix) - (nx - 1) / 2) * (-1 if sensor.flip else 1) * PIXEL_SCALE_ARCSEC / 3600
    across = (np.asarray(y_pix) - (ny - 1) / 2) * PIXEL_SCALE_ARCSEC / 3600
    cosine, sine = np.cos(np.radians(sensor.rotation_deg)), np.sin(np.radians(sensor.rotation_deg))
    return (
        sensor.x_field_deg + cosine * along - sine * across,
        sensor.y_field_deg + sine * along + cosine * across,
    )
