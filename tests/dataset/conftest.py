"""Fixtures of the dataset tests."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from llm2bids.dataset.read import Dataset, open_dataset


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """Synthetic recordings and what goes with them (`synthetic.py` beside this file)."""
    spec = importlib.util.spec_from_file_location(
        "synthetic_dataset", Path(__file__).with_name("synthetic.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def written(synthetic, tmp_path_factory) -> Path:
    """A dataset of two participants and two tasks; not to be changed."""
    return synthetic.write_dataset(tmp_path_factory.mktemp("written") / "dataset")


@pytest.fixture(scope="session")
def dataset(written) -> Dataset:
    """The same, opened."""
    return open_dataset(written)
