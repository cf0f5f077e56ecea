"""Random streams depend on what is drawn, and differ for everything that differs."""

import numpy as np
import pytest

from rbsim.seeding import STEPS, key_of_name, stream


def first(*arguments):
    return stream(*arguments).integers(0, 2**63)


def test_same_arguments_give_the_same_stream():
    assert first(1, "place", 5, 2) == first(1, "place", 5, 2)


def test_every_argument_matters_and_trailing_zeros_too():
    drawn = [
        first(seed, step, *key)
        for seed in (0, 1)
        for step in STEPS
        for key in ((), (0,), (0, 0), (1,), (0, 1))
    ]
    assert len(set(drawn)) == len(drawn)


def test_large_keys_are_fine_and_names_have_stable_keys():
    assert first(0, "noise", 2**32 - 1) != first(0, "noise", 2**31)
    assert key_of_name("EXP001.fits") == 0x5364F4CD


def test_negative_and_unknown_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        stream(-1, "place")
    with pytest.raises(KeyError):
        stream(1, "dance")
    assert isinstance(stream(1, "place"), np.random.Generator)
