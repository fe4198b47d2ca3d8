"""Fixtures of the dataset tests."""

import shutil
from pathlib import Path

import pytest

from llm2bids.dataset.read import Dataset, open_dataset


@pytest.fixture(scope="session")
def dataset(written) -> Dataset:
    """A dataset of two participants and two tasks, opened."""
    return open_dataset(written)


@pytest.fixture
def changed(written, tmp_path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(written, tmp_path / "copy"))
