"""Designs that need no paradigm file."""

from collections.abc import Callable

import pytest

from llm2bids.paradigm.design import RunDesign
from tests.synthetic import make_design


@pytest.fixture(scope="session")
def design_of() -> Callable[..., RunDesign]:
    """The function that makes a run's design."""
    return make_design
