"""Fixtures of the dataset tests."""

import pytest

from llm2bids.dataset.read import Dataset, open_dataset


@pytest.fixture(scope="session")
def dataset(written) -> Dataset:
    """A dataset of two participants and two tasks, opened."""
    return open_dataset(written)
