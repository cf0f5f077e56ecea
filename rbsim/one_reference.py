"""The rows of a paired store that belong to one of its references, read as a store of their own."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rbsim.store import Store


@dataclass(frozen=True, eq=False)
class OneReference(Store):
    """What a run with this reference alone would have, and the forced stamps.

    Numbers of frames and stamps count within it. Its bytes are those of the paired store.

    Attributes
    ----------
    code : int
        Place of the reference in the attribute ``references``.
    """

    code: int

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of the store; ``reference_name`` is that of the reference."""
        attributes = super().attributes
        name = attributes.pop("references")[self.code]
        return attributes | {"config": attributes["config"] | {"reference_name": name}}

    @property
    def n_stamps(self) -> int:
        """Number of stamps."""
        return len(self._rows)

    @property
    def frame_names(self) -> list[str]:
        """Names of the frames."""
        return super().frame_names[self.code :: self._n]

    @property
    def frame_reasons(self) -> list[str]:
        """Why each frame failed; empty for those that did not."""
        return super().frame_reasons[self.code :: self._n]

    @cached_property
    def _n(self) -> int:
        return len(super().attributes["references"])

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.flatnonzero(super().column("reference") == self.code)

    @cached_property
    def _truth_rows(self) -> np.ndarray:
        return np.flatnonzero(super().column("truth/frame") % self._n == self.code)

    def column(self, name: str) -> np.ndarray:
        """As of a store: one value per stamp, star or frame."""
        values = super().column(name)
        if name.startswith("frames/"):
            return values[self.code :: self._n]
        values = values[self._truth_rows if name.startswith("truth/") else self._rows]
        if name in ("frame", "truth/frame"):
            return (values // self._n).astype(values.dtype)
        if name == "truth/stamp":
            return np.where(values >= 0, np.searchsorted(self._rows, values), -1).astype(values.dtype)
        return values

    def read_stamps(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Stamps of the given rows, shape (n, channel, y, x), float32, in the order asked for."""
        return super().read_stamps(self._rows[rows])

    def read_run(self, first: int, out: np.ndarray) -> None:
        """Fill `out`, shape (n, channel, y, x), float32, with the stamps from row `first` on."""
        out[:] = self.read_stamps(slice(first, first + len(out)))


def by_reference(store: Store) -> list[Store]:
    """One store per reference of a paired store; any other as it is."""
    if not store.references:
        return [store]
    return [OneReference(store.path, store.root, code) for code in range(len(store.references))]
