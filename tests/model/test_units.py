"""Addresses of units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import ModelError
from llm2bids.model.units import parse_address

NAMES = st.from_regex(r"[a-z_0-9]+(\.[a-z_0-9]+){0,4}", fullmatch=True)


@given(name=NAMES, unit=st.integers(0, 10**9))
def test_address_round_trip(name, unit):
    assert parse_address(f"{name}[{unit}]") == (name, unit)


@pytest.mark.parametrize("text", ["", "a", "a[", "a[x]", "a[-1]", "[3]", "a [3]", "a[3]b"])
def test_what_is_no_address(text):
    with pytest.raises(ModelError, match="is not of the form"):
        parse_address(text)
