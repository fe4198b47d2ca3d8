"""Tasks in several processes, here or on a cluster, as many as the machine serves."""

import difflib
import importlib
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any, TypeVar

from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool

from llm2bids.exceptions import RecordingError, UsageError

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_SIGNALS = {signal.SIGINT, signal.SIGTERM}

_PATIENCE = 60.0  # seconds that tasks have to come to an end when they were told to stop

_IDLE = 20.0  # seconds without a task after which a local worker ends

_LOOK_EVERY = 0.2  # seconds between two looks at the tasks

# What begins a task in another process: takes a function and its arguments, gives its future.
Submit = Callable[..., Any]

LOCAL = "local"  # what names dask workers on this machine, in place of a file

# Queues that dask-jobqueue knows.
_CLASSES = {
    name.lower(): f"{name}Cluster"
    for name in ("HTCondor", "LSF", "Moab", "OAR", "PBS", "SGE", "SLURM")
}

# Resource that a worker has once: one task at a time, however many threads it has.
_TASKS = {"llm2bids": 1}

# How often a task begins again that failed as nothing of ours fails; a killed worker is dask's.
_RETRIES = 2


@contextmanager
def local_pool(n_workers: int, n_threads: int = 1) -> Iterator[Submit]:
    """Start processes of this machine, with threads of their own, deaf to what stops this one."""
    environment = {
        # what computes and compresses in a worker asks these how much of the machine is its own
        **dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT"),
            str(n_threads),
        ),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }
    # unlike those of the standard library, these processes do not run the caller's script again
    # and, idle for a while, they end: they would wait for ever for a parent that was killed
    pool = ProcessPoolExecutor(max_workers=n_workers, env=environment, timeout=_IDLE)
    whole = False
    try:
        yield pool.submit
        whole = True
    except BrokenProcessPool as error:
        raise RecordingError(
            f"a worker was killed ({str(error).splitlines()[0]}), most often for want of memory; "
            "finished runs are kept: call the command again, with fewer --n-workers"
        ) from None
    finally:
        pool.shutdown(wait=True, kill_workers=not whole)


def run_tasks(
    submit: Submit,
    work: Callable[..., _Result],
    arguments: Sequence[tuple[Any, ...]],
    *,
    stopping: Event | None = None,
    look: Callable[[], None] = lambda: None,
) -> Iterator[_Result]:
    """Run tasks and give their results as they come; once `stopping`, what is done in a minute.

    `look` is called again and again meanwhile.
    """
    with ignored_signals():  # new processes inherit it: we tell them to stop
        futures: list[Future[_Result]] = [submit(work, *given) for given in arguments]
    since: float | None = None
    try:
        while futures:
            done = [future for future in futures if future.done()]
            for future in done:
                futures.remove(future)
                if not future.cancelled():
                    yield future.result()
            if stopping is not None and stopping.is_set():
                since = since or time.monotonic()
                futures = [future for future in futures if not _cancelled(future)]
                if time.monotonic() - since > _PATIENCE:
                    return
            if not done:
                look()
                time.sleep(_LOOK_EVERY)
    finally:
        for future in futures:
            future.cancel()


def _cancelled(future: "Future[Any]") -> bool:
    """Cancel a task that has not begun; dask does not say which have."""
    return hasattr(future, "running") and not future.running() and future.cancel()


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    """Handle what interrupts a command in a way of our own; only the main thread can."""
    mine = _SIGNALS if current_thread() is main_thread() else ()
    before = {number: signal.signal(number, handler) for number in mine}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def ignored_signals() -> AbstractContextManager[None]:
    """Begin processes that a terminal's interrupt does not reach (a mask is undone by Python)."""
    return _handled(signal.SIG_IGN)


@contextmanager
def stopped_by_signals(stop: Path) -> Iterator[Event]:
    """Tell the workers to stop by a file when this process is interrupted; a second time, do it."""
    stop.parent.mkdir(parents=True, exist_ok=True)
    stop.unlink(missing_ok=True)
    stopping = Event()

    def tell(signum: int, frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        with suppress(OSError):
            stop.touch()

    try:
        with _handled(tell):
            yield stopping
    except BaseException:
        with suppress(OSError):
            stop.touch()  # whoever is still at work ends
        raise


@contextmanager
def cluster_pool(cluster: str | Path, n_workers: int) -> Iterator[Submit]:
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
            # a task's arguments travel with it, so that another worker can take it over
            how = {"pure": False, "retries": _RETRIES, "resources": _TASKS}
            yield partial(client.submit, **how)
        except KilledWorker as error:
            raise RecordingError(
                f"workers of the cluster were killed again and again at one task ({error}), most "
                "often for want of memory or time; finished runs are kept: give the cluster file "
                "more of either, and call the command again"
            ) from None


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
