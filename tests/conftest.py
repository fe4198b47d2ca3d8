"""Fixtures shared by the tests: tiny models with random weights, and small datasets.

``tiny_model_dir("llama")`` is the folder of a saved model, ``tiny_loaded("llama")`` the same loaded
by :func:`llm2bids.model.load.load_model`. What they make is made by `tests/synthetic.py`.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.brought import bring
from tests.synthetic import DRINKS, FOSSILS, Experiment
from tests.tiny_models import save_tiny_model

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Hypothesis tries the same examples each time, unless LLM2BIDS_EXAMPLES asks for so many times
# more: a clone's tests do not fail by chance, or as a machine is busy.
_FACTOR = int(os.environ.get("LLM2BIDS_EXAMPLES", "1"))
settings.register_profile(
    "llm2bids",
    max_examples=100 * _FACTOR,
    derandomize=_FACTOR == 1,
    database=None,
    deadline=None,
)
settings.load_profile("llm2bids")


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Tests write thousands of small files; that they reach the disk has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda opened: None)
        yield


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make (once) the folder of a tiny model: ``tiny_model_dir("llama")``."""

    @cache
    def make(architecture: str = "llama") -> Path:
        folder = tmp_path_factory.mktemp("models") / f"tiny-{architecture}"
        return save_tiny_model(architecture, folder)

    return make


@pytest.fixture(scope="session")
def tiny_loaded(
    tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], "LoadedModel"]:
    """Load (once) a tiny model: ``tiny_loaded("llama")``."""

    @cache
    def load(architecture: str = "llama") -> "LoadedModel":
        from llm2bids.model.load import load_model

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
            return load_model(tiny_model_dir(architecture), device="cpu")

    return load


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that is not the user's, nor another test's."""
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "llm2bids-cache"))
    return tmp_path / "llm2bids-cache"


@pytest.fixture
def peft(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package of the extra ``adapters``, at the lock's version, for the tests that need it.

    It is no part of the test environment, where an adapter has to be refused.
    """
    if importlib.util.find_spec("peft") is None:
        lock = (Path(__file__).parents[1] / "lock.txt").read_text()
        pinned = re.search(r"^peft==\S+", lock, re.MULTILINE)
        assert pinned is not None
        bring(monkeypatch, pinned[0])
    return importlib.import_module("peft")


@pytest.fixture(scope="session")
def synthetic() -> Experiment:
    """A dataset of two participants and two tasks, and what goes into it."""
    return FOSSILS


@pytest.fixture(scope="session")
def written(synthetic: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, written; not to be changed."""
    return synthetic.write_dataset(tmp_path_factory.mktemp("written") / "dataset")


@pytest.fixture(scope="session")
def recorded() -> Experiment:
    """A dataset of four participants and three tasks with known truth."""
    return DRINKS


@pytest.fixture(scope="session")
def drinks(recorded: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, written; not to be changed."""
    return recorded.write_dataset(tmp_path_factory.mktemp("drinks") / "bids")
