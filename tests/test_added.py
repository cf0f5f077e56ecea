"""What lights add to a frame: boxes give the plane back, and are convolved as the whole frame would be."""

import numpy as np
import pytest

from rbsim import added as added_model
from rbsim.added import Added, Boxes
from rbsim.convolve import convolve_varying, nearest_centres, tile_centres

SHAPE = (230, 340)
SIZE, HALF = 9, 4


def boxes_at(corner_x, corner_y, *, rng):
    """Boxes of random light, in two thirds of their pixels, and what lies in the frame of it."""
    corner_x, corner_y = np.array(corner_x), np.array(corner_y)
    light = rng.uniform(1, 9, (len(corner_x), SIZE, SIZE)).astype(np.float32)
    light[rng.random(light.shape) < 0.3] = 0
    light[:, 0] = 0
    y = corner_y[:, None, None] + np.arange(SIZE)[:, None]
    x = corner_x[:, None, None] + np.arange(SIZE)
    inside = (light != 0) & (y >= 0) & (y < SHAPE[0]) & (x >= 0) & (x < SHAPE[1])
    numbers = (y * SHAPE[1] + x)[inside]
    return Boxes(numbers, np.flatnonzero(inside), light[inside], corner_x, corner_y, SIZE, SIZE)


@pytest.fixture
def light():
    rng = np.random.default_rng(1)
    stacks = [
        boxes_at([20, 60, 110, 108], [30, 30, 60, 109], rng=rng),  # the last two over borders of tiles
        boxes_at([24, -3, SHAPE[1] - 5, 200], [27, 100, SHAPE[0] - 4, -20], rng=rng),
    ]
    return Added(tuple(stacks), SHAPE)


def kernel_at(x_pix, y_pix):
    """A kernel that moves and widens over the frame."""
    axis = np.arange(-HALF, HALF + 1)
    width = (1.2 + 0.4 * x_pix / SHAPE[1])[:, None, None]
    shift = (y_pix / SHAPE[0] - 0.5)[:, None, None]
    kernel = np.exp(-0.5 * ((axis - shift) ** 2 + (axis[:, None]) ** 2) / width**2)
    return kernel / kernel.sum(axis=(1, 2), keepdims=True)


def both_ways(light, kernel, monkeypatch):
    monkeypatch.setattr(added_model, "SPARSE_SHARE", np.inf)
    one_by_one = light.convolved(kernel)
    monkeypatch.setattr(added_model, "SPARSE_SHARE", 0.0)
    return one_by_one, light.convolved(kernel)


def test_lists_and_stamps_give_the_plane_back(light):
    plane = light.plane()
    by_hand = np.zeros(SHAPE, np.float32)
    for some in light.boxes:
        np.add.at(by_hand.reshape(-1), some.pixels, some.values)
    np.testing.assert_array_equal(plane, by_hand)
    np.testing.assert_array_equal(light.touched(), plane != 0)
    from_stamps = np.zeros(SHAPE, np.float32)
    for some in light.boxes:
        images, corner_x, corner_y = some.stamps()
        assert images.shape[1] == SIZE - 1  # the first row of every box is empty
        added_model._lay(from_stamps, images, corner_x, corner_y)
    np.testing.assert_array_equal(plane, from_stamps)


def test_one_kernel_everywhere_is_the_same_one_by_one_and_by_tiles(light, monkeypatch):
    def constant(x_pix, y_pix):
        return kernel_at(np.full_like(x_pix, 50.0, float), np.full_like(y_pix, 90.0, float))

    one_by_one, tiled = both_ways(light, constant, monkeypatch)
    np.testing.assert_allclose(one_by_one, tiled, atol=1e-5 * tiled.max())
    np.testing.assert_allclose(tiled, convolve_varying(light.plane(), constant), atol=0)


def test_a_varying_kernel_differs_only_where_a_box_reaches_into_the_next_tile(light, monkeypatch):
    one_by_one, tiled = both_ways(light, kernel_at, monkeypatch)
    off = np.abs(one_by_one - tiled)
    np.testing.assert_array_less(off[:55, :90], 1e-5 * tiled.max())
    assert off.max() > 1e-3 * tiled.max()
    # No more than the change of the kernel from tile to tile, for all light that reaches a pixel.
    kernels = kernel_at(*tile_centres(SHAPE))
    change = np.abs(kernels[:, None] - kernels[None]).max(axis=(0, 1))
    reach = convolve_varying(light.plane(), lambda x, _y: np.repeat(change[None], len(x), axis=0))
    assert (off <= reach + 1e-4).all()
    assert one_by_one.sum() == pytest.approx(tiled.sum(), rel=0.01)


def test_places_have_the_centre_of_their_tile():
    x, y = tile_centres(SHAPE)
    np.testing.assert_array_equal(nearest_centres(x, y, SHAPE), (x, y))
    shifted = nearest_centres(x + 30, y - 30, SHAPE)
    np.testing.assert_array_equal(shifted, (x, y))
    outside = nearest_centres(np.array([-40.0, 1e4]), np.array([-40.0, 1e4]), SHAPE)
    np.testing.assert_array_equal(outside, (x[[0, -1]], y[[0, -1]]))


def test_nothing_added_is_nothing():
    nothing = Added((), SHAPE)
    assert not nothing
    assert not nothing.plane().any()
    assert not nothing.convolved(kernel_at).any()
