"""Stamps: the centre is the pixel asked for, edges are NaN and flagged, none overlap."""

import numpy as np
import pytest

from rbsim.difference import Difference
from rbsim.schema import CANDIDATE_FLAG, CHANNELS, MASK, STAMP_HALF_PIX, STAMP_SIZE_PIX
from rbsim.stamps import choose_apart, cut_stamps

SHAPE = (120, 140)


@pytest.fixture
def planes():
    rng = np.random.default_rng(1)
    reference, science = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint8)
    mask[60, 71] = MASK["SATURATED"]
    mask[20, 100] = MASK["BAD"]
    mask[100, 40] = MASK["NO_REFERENCE"]
    difference = Difference(
        image=science - reference,
        variance=np.full(SHAPE, 4.0, np.float32),
        mask=mask,
        kernel_at=None,
        fit=None,
        convolved="reference",
        kernel_sum=np.ones(SHAPE, np.float32),
        noise_factor=np.ones(SHAPE, np.float32),
        psf_at=None,
    )
    return reference, science, difference


def test_stamp_centre_is_the_image_at_y_x_in_every_channel(planes):
    reference, science, difference = planes
    x, y = np.array([70.2, 30.49]), np.array([60.4, 50.51])
    cut = cut_stamps(reference, science, difference, x, y, fwhm_pix=3.0)
    assert cut.pixels.shape == (2, 3, STAMP_SIZE_PIX, STAMP_SIZE_PIX)
    for plane, channel in ((reference, "reference"), (science, "science"), (difference.image, "difference")):
        middle = cut.pixels[:, CHANNELS.index(channel), STAMP_HALF_PIX, STAMP_HALF_PIX]
        np.testing.assert_array_equal(middle, plane[[60, 51], [70, 30]])
        whole = cut.pixels[0, CHANNELS.index(channel)]
        np.testing.assert_array_equal(whole, plane[46:75, 56:85])
    assert (cut.x0_pix[0], cut.y0_pix[0]) == (56, 46)
    np.testing.assert_array_equal(cut.noise_adu, 2.0)


def test_edges_are_nan_and_flagged(planes):
    cut = cut_stamps(*planes, np.array([3.0, 70.0]), np.array([60.0, 60.0]), fwhm_pix=3.0)
    assert np.isnan(cut.pixels[0, :, :, : STAMP_HALF_PIX - 3]).all()
    assert np.isfinite(cut.pixels[0, :, :, STAMP_HALF_PIX - 3 :]).all()
    assert cut.flags[0] & CANDIDATE_FLAG["EDGE"]
    assert not cut.flags[1] & CANDIDATE_FLAG["EDGE"]


@pytest.mark.parametrize(
    ("x", "y", "flag"),
    [(70, 60, "SATURATED"), (105, 25, "MASK_SCIENCE"), (40, 95, "MASK_REFERENCE")],
)
def test_masks_become_flags_near_the_candidate_only(planes, x, y, flag):
    near = cut_stamps(*planes, np.array([float(x)]), np.array([float(y)]), fwhm_pix=3.0)
    far = cut_stamps(*planes, np.array([70.0]), np.array([98.0]), fwhm_pix=3.0)
    assert near.flags[0] & CANDIDATE_FLAG[flag]
    assert not far.flags[0] & CANDIDATE_FLAG[flag]


def test_chosen_stamps_share_no_pixel_and_nothing_more_would_fit():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 500, (2, 400))
    first = np.zeros(400, bool)
    first[:5] = True
    chosen = choose_apart(x, y, first=first, rng=rng)
    used = np.zeros((560, 560), int)
    for row in chosen:
        x0, y0 = round(x[row]) + 15, round(y[row]) + 15
        used[y0 : y0 + STAMP_SIZE_PIX, x0 : x0 + STAMP_SIZE_PIX] += 1
    assert used.max() == 1
    left = np.setdiff1d(np.arange(400), chosen)
    gap = np.maximum(
        np.abs(np.rint(x[left, None]) - np.rint(x[chosen])),
        np.abs(np.rint(y[left, None]) - np.rint(y[chosen])),
    )
    assert (gap.min(axis=1) < STAMP_SIZE_PIX).all()
    taken = np.column_stack([x[chosen[:20]], y[chosen[:20]]])
    more = choose_apart(x, y, first=np.zeros(400, bool), rng=rng, taken=taken)
    gap = np.maximum(
        np.abs(np.rint(x[more, None]) - np.rint(taken[:, 0])),
        np.abs(np.rint(y[more, None]) - np.rint(taken[:, 1])),
    )
    assert len(more) > 0
    assert gap.min() >= STAMP_SIZE_PIX
    assert set(choose_apart(x[:5], y[:5], first=first[:5], rng=rng)) <= set(range(5))
    assert len(choose_apart(x[:0], y[:0], first=first[:0], rng=rng)) == 0
