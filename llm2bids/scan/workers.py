"""Tasks in several processes, here or on a cluster, as many as the machine serves."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
from typing import Any, Protocol, TypeVar

from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool

from llm2bids.exceptions import RecordingError

_Result = TypeVar("_Result")

_SIGNALS = {signal.SIGINT, signal.SIGTERM}

_PATIENCE = 60.0
"""Seconds that tasks have to come to an end when they were told to stop."""

_IDLE = 20.0
"""Seconds without a task after which a local worker ends."""

_LOOK_EVERY = 0.1
"""Seconds between two looks at the tasks."""


class Pool(Protocol):
    """Whatever runs tasks in other processes; dask's client is one."""

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Any:
        """Begin a task; what is returned is its future."""


@contextmanager
def local_pool(n_workers: int, n_threads: int = 1) -> Iterator[Pool]:
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
        yield pool
        whole = True
    except BrokenProcessPool as error:
        raise RecordingError(
            f"a worker was killed ({str(error).splitlines()[0]}), most often for want of memory; "
            "finished runs are kept: call the command again, with fewer --n-workers"
        ) from None
    finally:
        pool.shutdown(wait=True, kill_workers=not whole)


def run_tasks(
    pool: Pool,
    work: Callable[..., _Result],
    arguments: Sequence[tuple[Any, ...]],
    *,
    stopping: Event | None = None,
) -> Iterator[_Result]:
    """Run tasks and give their results as they come; once `stopping`, what is done in a minute."""
    with ignored_signals():  # new processes inherit it: we tell them to stop
        futures: list[Future[_Result]] = [pool.submit(work, *given) for given in arguments]
    told: float | None = None
    try:
        while futures:
            done = [future for future in futures if future.done()]
            for future in done:
                futures.remove(future)
                if not future.cancelled():
                    yield future.result()
            if stopping is not None and stopping.is_set():
                told = told or time.monotonic()
                futures = [future for future in futures if not _cancelled(future)]
                if time.monotonic() - told > _PATIENCE:
                    return
            if not done:
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
def watched(look: Callable[[], int], bar: Any) -> Iterator[None]:
    """Keep a bar at the number that `look` gives."""
    ended = Event()

    def catch_up() -> None:
        if (n := look() - bar.n) > 0:
            bar.update(n)

    def watch() -> None:
        while not ended.wait(0.3):
            catch_up()

    thread = Thread(target=watch, name="llm2bids-progress", daemon=True)
    thread.start()
    try:
        yield
        catch_up()
    finally:
        ended.set()
        thread.join()
