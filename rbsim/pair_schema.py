"""Columns that pair the references of a store; new in version 5 of the format. See `rbsim.schema`."""

import numpy as np

from rbsim.artefact_schema import ARTEFACTS
from rbsim.truth_schema import ArraySpec

PAIR_COLUMNS = (
    ArraySpec("reference", "int8", "", "reference subtracted: place in the attribute references; 0 alone"),
    ArraySpec(
        "pair",
        "int64",
        "",
        "equal for the stamps of one place: injection_id of a star, else below -1; -1 with one reference",
    ),
    ArraySpec("found_with", "uint8", "", "bit r: detected here with reference r; of two, 3 is common"),
)
"""Of the candidates."""

PAIR_FRAME_COLUMNS = (
    ArraySpec("reference", "int8", "", "reference subtracted, as in the stamps' column"),
    ArraySpec("n_common", "int32", "", "of n_bogus_detected, where every reference shows one; -1 alone"),
)

BEFORE_5 = {
    "reference": np.int8(0),
    "pair": np.int64(-1),
    "found_with": np.uint8(1),
    "frames/reference": np.int8(0),
    "frames/n_common": np.int32(-1),
    "frames/star_shape_residual": np.float32(np.nan),
    # Classes that the emulator did not have then.
    **{f"frames/n_false_{kind.name}": np.int32(0) for kind in ARTEFACTS if kind.code > 7},
}
"""What a store of version 4, which has one reference, would have in columns that came later."""

ADDED_TO_5 = frozenset({"frames/star_shape_residual"})
"""Columns that stores of version 5 may lack, too."""
