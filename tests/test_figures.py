"""The figures can be read by everyone."""

import numpy as np
import pytest

from rbmodel.sheet import COLOURS

VISION = {
    "normal": np.eye(3),
    # Machado, Oliveira & Fernandes 2009, severity 1, for linear RGB.
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("scheme", [0, 1])
def test_series_colours_stay_apart_for_everyone(vision, scheme):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    to_lab = np.array([[0, 116, 0], [500, -500, 0], [0, 200, -200]])
    names = [name for name in COLOURS if name.startswith("series") or name == "bound"]
    rgb = np.array([[int(COLOURS[n][scheme][i : i + 2], 16) / 255 for i in (1, 3, 5)] for n in names])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(VISION[vision]), 0, 1)
    xyz = seen @ to_xyz.T / [0.9505, 1, 1.089]
    lab = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116) @ to_lab.T
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    assert distance[~np.eye(len(names), dtype=bool)].min() >= 14
