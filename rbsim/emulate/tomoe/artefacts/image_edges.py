"""The borders of the sensor, where stamps are half empty and the fits have nothing to hold on to."""

from dataclasses import dataclass

from rbsim.emulate.tomoe.scene import Layer, Row, Scene


@dataclass(frozen=True)
class ImageEdgeConfig:
    """See the table of this class in ``catalogs/artefacts.toml``."""

    strip_pix: float


def image_edges(scene: Scene, config: ImageEdgeConfig) -> Layer:
    """Four rows: lines along the borders, half a strip inside; strength is the strip's width in pixels.

    What makes them: kernel, background and reference end there.
    """
    ny, nx = scene.shape
    inset = config.strip_pix / 2
    rows = tuple(
        Row("image_edge", x, y, config.strip_pix, length_pix=float(length), angle_deg=angle)
        for x, y, length, angle in (
            ((nx - 1) / 2, inset, nx, 0.0),
            ((nx - 1) / 2, ny - 1 - inset, nx, 0.0),
            (inset, (ny - 1) / 2, ny, 90.0),
            (nx - 1 - inset, (ny - 1) / 2, ny, 90.0),
        )
    )
    return Layer(rows)
