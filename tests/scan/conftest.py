"""What the tests of whole scans share."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """A cache of the test session's own."""
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.getbasetemp() / "llm2bids-cache"))


@pytest.fixture(scope="module")
def model(tiny_model_dir) -> Path:
    """A tiny Llama's folder."""
    return tiny_model_dir("llama")
