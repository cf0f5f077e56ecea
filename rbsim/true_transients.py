"""The emulator's transients: where they are in every frame, and which file is which frame."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from astropy.io.registry import IORegistryError
from astropy.table import Table

from rbsim.errors import InputError
from rbsim.tomoe.header import parse_frame_id

Rows = TypeVar("Rows")
TRAIL_COLUMNS = ("trail_length_pix", "trail_angle_deg")


@dataclass(frozen=True, eq=False)
class TrueTransients:
    """Transients in one frame; arrays of shape (n,).

    Attributes
    ----------
    x_pix, y_pix : 0-based; of a trail, the middle of its part on the frame.
    trail_length_pix : 0 is a point.
    trail_angle_deg : from +x towards +y.
    """

    x_pix: np.ndarray
    y_pix: np.ndarray
    trail_length_pix: np.ndarray
    trail_angle_deg: np.ndarray

    @classmethod
    def none(cls) -> "TrueTransients":
        """An emulated frame without any."""
        return cls(*np.empty((4, 0)))

    @property
    def is_trail(self) -> np.ndarray:
        """Bool, shape (n,)."""
        return np.asarray(self.trail_length_pix > 0)

    @property
    def xy(self) -> np.ndarray:
        """Positions, shape (n, 2)."""
        return np.column_stack([self.x_pix, self.y_pix])


def read_truth(path: Path) -> dict[str, TrueTransients]:
    """Transients of every frame of an emulated night, by the name of the frame.

    Raises
    ------
    InputError
        If the table cannot be read or lacks columns.
    """
    try:
        table = Table.read(path)
        names = np.asarray(table["frame"]).astype(str)
        x, y = (np.asarray(table[name], float) for name in ("x_pix", "y_pix"))
        length, angle = (
            np.nan_to_num(np.asarray(table[name], float)) if name in table.colnames else np.zeros(len(table))
            for name in TRAIL_COLUMNS
        )
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (KeyError, ValueError, OSError, IORegistryError) as error:
        raise InputError(
            f"{path}: is not a truth table of rbsim emulate (columns frame, x_pix, y_pix)"
        ) from error
    return {
        str(name): TrueTransients(*(values[names == name] for values in (x, y, length, angle)))
        for name in np.unique(names)
    }


def frame_of(name: str) -> str:
    """What the files of one exposure of a sensor have in common: a Tomo-e FRAME_ID, else the name itself.

    An emulated night's tables name its stacks; with this they are those of the cubes and of compressed
    files too.
    """
    frame_id = parse_frame_id(name)
    return name.removesuffix(".gz").removesuffix(".fz") if frame_id is None else frame_id.text


def by_frame(rows: Mapping[str, Rows]) -> dict[str, Rows]:
    """Rows of a table by `frame_of` instead of the file's name."""
    return {frame_of(name): some for name, some in rows.items()}
