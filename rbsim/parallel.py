"""Who does the work of a run, and how it is given to them: checked on making. Knows no dask."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from rbsim.batch import CLUSTERS, cluster_arguments
from rbsim.errors import InputError


@dataclass(frozen=True)
class Parallel:
    """Who does the work; at most one of the three is given.

    Attributes
    ----------
    workers : int
        0: this process, one item after the other. Otherwise so many dask worker processes here.
    scheduler : str or None
        Address of a dask scheduler that runs already, such as ``tcp://10.0.0.1:8786``.
    cluster : str or None
        Batch system whose jobs are the workers, of `rbsim.batch.CLUSTERS`.
    cluster_config : Path or None
        TOML file with what its jobs need, see `rbsim.batch.cluster_arguments`.
    """

    workers: int = 0
    scheduler: str | None = None
    cluster: str | None = None
    cluster_config: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what excludes each other or is not known, also in the file."""
        given = [
            name
            for name, value in (
                ("--workers", self.workers),
                ("--scheduler", self.scheduler),
                ("--cluster", self.cluster),
            )
            if value
        ]
        if self.workers < 0:
            raise InputError(f"workers is {self.workers}; it must be at least 0")
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} exclude each other; give one of them")
        if self.cluster is not None and self.cluster not in CLUSTERS:
            raise InputError(f"cluster is {self.cluster!r}; choose one of {', '.join(CLUSTERS)}")
        if self.cluster_config is not None and self.cluster is None:
            raise InputError(f"--cluster-config {self.cluster_config}: needs --cluster {'|'.join(CLUSTERS)}")
        if self.cluster is not None:
            cluster_arguments(self.cluster, self.cluster_config)  # a slip of the pen must not begin a build

    @property
    def in_process(self) -> bool:
        """No dask at all."""
        return not (self.workers or self.scheduler or self.cluster)


IN_PROCESS = Parallel()


class Run(Protocol):
    """`rbsim.cluster.run_partitions`, its workers given."""

    def __call__(
        self,
        function: Callable[[Any, Any], Any],
        shared: Any,
        items: Iterable[Any],
        *,
        on_done: Callable[[Any], None],
        on_lost: Callable[[Any, str], None] | None = None,
    ) -> None:
        """See `rbsim.cluster.run_partitions`."""


def run_here(
    function: Callable[[Any, Any], Any],
    shared: Any,
    items: Iterable[Any],
    *,
    on_done: Callable[[Any], None],
    on_lost: Callable[[Any, str], None] | None = None,  # noqa: ARG001 - here nobody is lost alone
) -> None:
    """A `Run` in this process, one item after the other."""
    # One BLAS thread, as on the workers: sums in another order give other bits.
    with threadpool_limits(1):
        for item in items:
            on_done(function(shared, item))
