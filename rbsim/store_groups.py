"""Stores that are measured together, and the groups that their rows fall into."""

from dataclasses import dataclass, replace
from pathlib import Path

from rbsim.errors import InputError
from rbsim.store import Store, open_store

ALL_SENSORS = -1


@dataclass(frozen=True, order=True)
class Group:
    """What is never pooled: condition, reference and threshold; `sensor` is -1 for all sensors pooled."""

    condition: str
    reference: str
    threshold_snr: float
    sensor: int

    @property
    def pooled(self) -> "Group":
        """The group of all sensors that this one is part of."""
        return replace(self, sensor=ALL_SENSORS)

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.condition}, {self.reference}, " + (
            "all sensors" if self.sensor == ALL_SENSORS else f"sensor {self.sensor}"
        )


def find_stores(path: Path) -> list[Store]:
    """The store at a path, or all stores (``*.zarr``) of a folder, by name.

    Raises
    ------
    InputError
        If there is none, one cannot be opened, or two are results of the same run.
    """
    if not path.is_dir() or (path / "zarr.json").exists():
        return [open_store(path)]
    stores = [open_store(inside) for inside in sorted(path.glob("*.zarr"))]
    if not stores:
        raise InputError(f"{path}: folder holds no store (*.zarr); give a store made by rbsim inject")
    runs: dict[str, Path] = {}
    for store in stores:
        run = repr((store.attributes["config"], store.frame_names))
        if run in runs:
            raise InputError(f"{store.path}: is the same run as {runs[run]}; keep one of them")
        runs[run] = store.path
    return stores


def threshold_of(store: Store) -> float:
    """S/N above which the detections of a store were taken.

    Raises
    ------
    InputError
        If it is not known, as of all stores that were converted.
    """
    config = store.attributes["config"]
    if not config.get("threshold_snr"):  # conversions once wrote 0
        source = config.get("converted_from", "an unknown source")
        raise InputError(
            f"{store.path}: comes from {source}, its detection threshold is not known, and nothing can be"
            " said of what was not found; give stores made by rbsim inject"
        )
    return float(config["threshold_snr"])


def group_of(store: Store, sensor: int) -> Group:
    """The group of one sensor of a store.

    Raises
    ------
    InputError
        If the detection threshold of the store is not known.
    """
    config = store.attributes["config"]
    return Group(str(config["condition"]), str(config["reference_name"]), threshold_of(store), sensor)
