"""The first frame of the night «tiny», subtracted: for the tests of what is drawn for a frame."""

from rbsim.config import InjectConfig
from rbsim.inputs import find_frames, gather_inputs
from rbsim.observe import observe


def observed_frame(night):
    """`Observed` of the first exposure."""
    config = InjectConfig(tile_pix=100)
    frames = find_frames([night / "science"])[:1]
    given = gather_inputs(
        frames, night / "reference.fits", night / "none.zarr", config, truth_path=None, known_path=None
    )
    return observe(
        given.tasks[0], given.references[""], config, gain=None, tiling=given.tiling(100), known=None
    )
