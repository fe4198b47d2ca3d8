"""One thread that works while the caller goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self


class Background(AbstractContextManager["Background"]):
    """One thread that works on one thing at a time; an error there stops the next submission."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llm2bids-write")
        self._pending: Future[Any] | None = None

    def submit(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Wait for the work before, then begin the next."""
        self.wait()
        self._pending = self._pool.submit(work, *args, **kwargs)

    def wait(self) -> None:
        """Wait for the work that was begun, and raise its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # a run that was recorded is kept, also when the next one fails or is interrupted
            self.wait()
        finally:
            self._pool.shutdown(wait=True)
