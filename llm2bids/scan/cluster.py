"""Workers on a cluster: dask's, which dask-jobqueue asks a queue for, or started here."""

import difflib
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.scan.workers import Pool, ignored_signals

log = logging.getLogger(__name__)

LOCAL = "local"
"""What names dask workers on this machine, in place of a file."""

_CLASSES = {
    "htcondor": "HTCondorCluster",
    "lsf": "LSFCluster",
    "moab": "MoabCluster",
    "oar": "OARCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "slurm": "SLURMCluster",
}
"""Queues that dask-jobqueue knows."""

_TASKS = {"llm2bids": 1}
"""Resource that a worker has once: one task at a time, however many threads it has."""

_RETRIES = 2
"""How often a task begins again that failed as nothing of ours fails; a killed worker is dask's."""


@contextmanager
def cluster_pool(cluster: str | Path, n_workers: int) -> Iterator[Pool]:
    """Start workers as a file of dask-jobqueue says, or `LOCAL` ones; at most so many."""
    start = _local if str(cluster) == LOCAL else _queued(Path(cluster))
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise UsageError(
            "--cluster: needs dask; install it with pip install 'llm2bids[cluster]'"
        ) from None
    logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells of every connection
    with ignored_signals():
        started = start(n_workers)
    with started, Client(started) as client:
        log.info("cluster: up to %d workers, %s", n_workers, started.scheduler_address)
        try:
            yield _Submitting(client)
        except KilledWorker as error:
            raise RecordingError(
                f"workers of the cluster were killed again and again at one task ({error}), most "
                "often for want of memory or time; finished runs are kept: give the cluster file "
                "more of either, and call the command again"
            ) from None


class _Submitting:
    """A dask client that gives a worker one task at a time, and begins a lost one again."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Any:
        """Begin a task; its arguments travel with it, so that another worker can take it over."""
        return self._client.submit(work, *args, pure=False, retries=_RETRIES, resources=_TASKS)


def _local(n_workers: int) -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=n_workers, threads_per_worker=1, resources=_TASKS, dashboard_address=None
    )


def _queued(path: Path) -> Callable[[int], Any]:
    """Read a cluster file; give what starts its workers."""
    engine, asked = read_cluster(path)

    def start(n_workers: int) -> Any:
        made = getattr(importlib.import_module("dask_jobqueue"), _CLASSES[engine])
        keywords = {name.replace("-", "_"): value for name, value in asked.items()}
        resources = ",".join(f"{name}={number}" for name, number in _TASKS.items())
        extra = [*(keywords.pop("worker_extra_args", None) or ()), "--resources", resources]
        queued = made(**{"processes": 1, **keywords, "worker_extra_args": extra})
        queued.scale(jobs=n_workers)
        return queued

    return start


def read_cluster(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Read the queue and the keys of a file of dask-jobqueue; what it does not know is refused."""
    try:
        import dask_jobqueue
        import yaml
    except ImportError:
        raise UsageError(
            "--cluster: needs dask-jobqueue; install it with pip install 'llm2bids[cluster]'"
        ) from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"--cluster {path}: not readable as YAML ({error}); expected a file of dask-jobqueue, "
            f"or '{LOCAL}'"
        ) from None
    engines = content.get("jobqueue") if isinstance(content, dict) else None
    if not isinstance(engines, dict) or len(engines) != 1 or set(content) != {"jobqueue"}:
        raise UsageError(
            f"--cluster {path}: expected 'jobqueue:' alone, and in it one queue with its keys, as "
            "in dask-jobqueue's configuration"
        )
    ((engine, asked),) = engines.items()
    if engine not in _CLASSES or not isinstance(asked, dict):
        raise UsageError(
            f"--cluster {path}: {engine}: expected one of {', '.join(_CLASSES)}, with its keys"
        )
    defaults = Path(dask_jobqueue.__file__).with_name("jobqueue.yaml")
    known = yaml.safe_load(defaults.read_text(encoding="utf-8"))["jobqueue"][engine]
    for name in asked:
        if str(name) not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            raise UsageError(
                f"--cluster {path}: {engine} has no key {name!r}"
                f"{f'; did you mean {close[0]!r}?' if close else ''} (known: {', '.join(known)})"
            )
    for name in ("cores", "memory"):
        if not asked.get(name):
            raise UsageError(f"--cluster {path}: {engine} needs {name!r}, of one job")
    return engine, asked
