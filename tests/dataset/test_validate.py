import pytest

from llm2bids.dataset.validate import find_validator
from llm2bids.exceptions import DatasetError


def test_a_missing_validator_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("llm2bids.dataset.validate.PROGRAM", "no-such-validator")
    with pytest.raises(DatasetError, match="is not installed; install it with `pip install"):
        find_validator()
