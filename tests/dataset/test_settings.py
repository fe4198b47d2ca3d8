import pytest

from llm2bids.dataset.settings import normal_settings
from llm2bids.exceptions import DatasetError


def test_settings_are_what_json_can_hold():
    with pytest.raises(DatasetError, match="cannot be written as JSON"):
        normal_settings({"a": object()})
