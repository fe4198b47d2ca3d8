"""Datasets that other projects' tools are run on."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """Synthetic recordings, shared with the dataset tests."""
    path = Path(__file__).parents[1] / "dataset" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_dataset", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def written(synthetic, tmp_path_factory) -> Path:
    """A dataset of two participants and two tasks; not to be changed."""
    return synthetic.write_dataset(tmp_path_factory.mktemp("interop") / "dataset")
