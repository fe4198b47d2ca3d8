import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.panels import GAP, head_box, head_columns, pack, panel_box, panel_offsets

BOXES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=20)


@given(st.integers(1, 5000))
def test_units_without_heads_fill_a_near_square_row_by_row(width):
    offsets = panel_offsets(Site(name="a", layer=None, role="a", width=width))
    columns, rows = panel_box(offsets)
    assert columns * rows - width < columns
    assert 0 <= columns - rows <= 1
    assert len(np.unique(offsets, axis=0)) == width


@given(st.integers(1, 80), st.integers(1, 256))
def test_heads_are_filled_rectangles_side_by_side(n_heads, head_size):
    site = Site(
        name="a",
        layer=0,
        role="a",
        width=n_heads * head_size,
        n_heads=n_heads,
        head_size=head_size,
    )
    offsets = panel_offsets(site)
    columns, rows = head_box(head_size)
    assert columns * rows == head_size
    corners = set()
    for head in range(n_heads):
        own = offsets[head * head_size : (head + 1) * head_size]
        low, high = own.min(axis=0), own.max(axis=0)
        assert tuple(high - low + 1) == (columns, rows)
        assert len(np.unique(own, axis=0)) == head_size
        assert tuple(low % (columns, rows)) == (0, 0)
        corners.add(tuple((low // (columns, rows)).tolist()))
    across = head_columns(n_heads, (columns, rows))
    assert corners == {(head % across, head // across) for head in range(n_heads)}


@pytest.mark.parametrize(
    ("n_heads", "head_size", "box"),
    [(9, 64, (24, 24)), (3, 64, (24, 8)), (32, 128, (64, 64)), (71, 64, (72, 64))],
)
def test_head_grids_of_real_models_are_near_square(n_heads, head_size, box):
    site = Site(
        name="q",
        layer=0,
        role="q",
        width=n_heads * head_size,
        n_heads=n_heads,
        head_size=head_size,
    )
    assert panel_box(panel_offsets(site)) == box


@given(BOXES)
def test_packed_boxes_keep_their_distance(boxes):
    corners, extent = pack(boxes)
    padded = np.zeros((extent[0] + GAP, extent[1] + GAP), dtype=int)
    for (column, row), (columns, rows) in zip(corners, boxes, strict=True):
        padded[column : column + columns + GAP, row : row + rows + GAP] += 1
        assert column + columns <= extent[0]
        assert row + rows <= extent[1]
    assert padded.max() == 1


def test_packing_of_equal_squares_is_square():
    assert pack([(9, 9)] * 16)[1] == (39, 39)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(name="m.x", layer=0, role="x", width=0), "site m.x has 0 units"),
        (
            Site(name="m.q", layer=0, role="q", width=10, n_heads=3, head_size=4),
            "site m.q has 10 units but 3 heads of 4",
        ),
        (
            Site(name="m.q", layer=0, role="q", width=10, n_heads=0, head_size=4),
            "site m.q has 10 units but 0 heads of 4",
        ),
    ],
)
def test_impossible_sites_are_refused(site, message):
    with pytest.raises(SpaceError, match=message):
        panel_offsets(site)
