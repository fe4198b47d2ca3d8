"""A pytest plugin for the newest versions: a deprecation that our code causes is raised.

One inside a library is listed with the test in which it came up. The module that a warning is
attributed to does not tell: of a keyword that we pass through `torch.nn.Module`, a decorator in
transformers warns its own caller, which is transformers too.
"""

import logging
import re
import sys
import warnings
from pathlib import Path
from types import FrameType

import pytest

OURS = ("llm2bids", "tests", "scripts", "docs")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    root = item.config.rootpath

    def show(message, category, filename, lineno, file=None, line=None):
        if caused_by_us(str(message), filename, sys._getframe(1), root):
            raise message
        shown = warnings.WarningMessage(message, category, filename, lineno)
        item.ihook.pytest_warning_recorded.call_historic(
            kwargs={"warning_message": shown, "nodeid": item.nodeid, "when": "runtest",
                    "location": None}
        )  # fmt: skip

    class Logged(logging.Handler):
        """transformers says some deprecations in its log alone."""

        def emit(self, record):
            text = record.getMessage()
            if "deprecated" in text:
                show(FutureWarning(text), FutureWarning, record.pathname, record.lineno)

    handler = Logged(logging.WARNING)
    logging.getLogger("transformers").addHandler(handler)
    warnings.showwarning = show  # pytest puts the old one back after each test
    try:
        return (yield)
    finally:
        logging.getLogger("transformers").removeHandler(handler)


def caused_by_us(message: str, filename: str, frame: FrameType | None, root: Path) -> bool:
    """Whether a deprecation is attributed to our code, or names a keyword that our code passes."""
    if is_ours(filename, root):
        return True
    called = None
    while frame is not None and not is_ours(frame.f_code.co_filename, root):
        called, frame = frame, frame.f_back
    if frame is None or called is None:
        return False
    old = re.split(r"deprecat|remov|renam", message)[0]  # before: the old name; after: the new one
    names = set(re.findall(r"[`'\"](\w+)\b", old) or re.findall(r"[`'\"](\w+)\b", message))
    return not names.isdisjoint(keywords_in(frame) | unpacked_keywords(called))


def is_ours(filename: str, root: Path) -> bool:
    if filename.startswith("<doctest"):
        return True
    path = Path(filename)
    return path.is_relative_to(root) and path.relative_to(root).parts[0] in OURS


def keywords_in(frame: FrameType) -> set[str]:
    """Names of the keywords that are spelled out in the call that a frame is in."""
    first, last, *_ = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    if first is None or last is None:
        return set()
    lines = Path(frame.f_code.co_filename).read_text(encoding="utf-8").splitlines()
    return set(re.findall(r"\b(\w+)\s*=", "\n".join(lines[first - 1 : last])))


def unpacked_keywords(called: FrameType) -> set[str]:
    """Names of the keywords that a function took as `**kwargs`."""
    code = called.f_code
    if not code.co_flags & 0x08:  # CO_VARKEYWORDS
        return set()
    n_named = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04)
    return set(called.f_locals.get(code.co_varnames[n_named], ()))
