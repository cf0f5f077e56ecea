"""Averaging frames into a reference: an outlier in one frame is clipped, and remembered."""

import numpy as np

from rbsim.stack import clipped_mean


def test_one_outlying_frame_is_clipped_and_flagged():
    rng = np.random.default_rng(1)
    images = rng.normal(0, 1, (6, 40, 50)).astype(np.float32)
    images[2, 10, 10] += 60  # a cosmic ray in one frame
    images[1:3, 20, 20] += 60  # the same in two
    images[4, 30, 30] -= 60  # a dark one
    images[3, 35, 35] = np.nan
    mean, variance, count, one_frame = clipped_mean(images, np.ones_like(images))
    assert count[10, 10] == 5
    assert count[20, 20] == 4
    assert count[35, 35] == 5
    assert abs(mean[10, 10]) < 2
    assert variance[10, 10] == np.float32(1 / 5)
    assert one_frame[10, 10]
    assert not one_frame[20, 20]
    assert not one_frame[30, 30]
    assert one_frame.sum() == 1
