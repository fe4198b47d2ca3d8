"""Smoothness: values that vary slowly over the grid are found smooth in their own order only."""

import numpy as np
import pytest

from llm2bids.dataset.read import open_dataset
from llm2bids.report.maps import find_maps
from llm2bids.report.smoothness import moran_table, smoothness_section, space_orders
from llm2bids.report.sources import find_sources


@pytest.fixture(scope="module")
def space(scanned):
    return open_dataset(scanned / "dataset").space


def test_slow_waves_are_smooth_in_their_own_order_only(space):
    orders = space_orders(space)
    assert list(orders) == ["index", "random"]
    x, y, _ = space.voxels.T.astype(float)
    table = moran_table(np.stack([x + y, np.cos(x / 4)]), orders)
    assert table.loc["all panels", "index"] > 0.5
    assert abs(table.loc["all panels", "random"]) < 0.3
    assert set(table.index) >= {site.role for site in space.sites if site.layer is not None}


def test_the_section_shows_both_orders(scanned):
    sources = find_sources(scanned)
    body = str(smoothness_section(sources, find_maps(sources)).body)
    assert "index order" in body and "random order" in body
    assert "--arrangement functional" in body
    assert "nan" not in body
