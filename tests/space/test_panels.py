import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.model.units import Site
from llm2bids.space.panels import GAP, columns_across, panel_voxels, shelve, site_tiles

BOXES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=20)
THICKNESS = st.sampled_from([1, 2, 3, 4, 6, 8])


@given(st.integers(1, 5000), THICKNESS, st.integers(1, 60))
def test_units_without_heads_fill_a_block(width, thickness, rows):
    tiles = site_tiles(Site(name="a", layer=None, role="a", width=width), thickness)
    for box in (tiles.box(rows), tiles.compact_box(rows)):
        voxels = panel_voxels(tiles, box)
        assert len(np.unique(voxels, axis=0)) == width
        assert np.all(voxels < [*box, thickness])
        assert box[1] <= rows
        assert np.prod(box) - -(-width // min(thickness, width)) < max(box)  # a row or column


@given(st.integers(1, 80), st.integers(1, 256), THICKNESS, st.integers(1, 60))
def test_heads_are_filled_boxes_side_by_side(n_heads, head_size, thickness, rows):
    heads = {"n_heads": n_heads, "head_size": head_size}
    site = Site(name="a", layer=0, role="a", width=n_heads * head_size, **heads)
    tiles = site_tiles(site, thickness)
    assert np.prod(tiles.block) == head_size
    voxels = panel_voxels(tiles, tiles.compact_box(rows)).reshape(n_heads, head_size, 3)
    assert len(np.unique(voxels.reshape(-1, 3), axis=0)) == site.width
    assert voxels[..., 2].max() < thickness
    low, high = voxels.min(axis=1), voxels.max(axis=1)
    np.testing.assert_array_equal(high - low + 1, [tiles.block] * n_heads)
    assert not np.any(low % tiles.block)


@pytest.mark.parametrize(
    ("head_size", "thickness", "block"),
    [(64, 4, (4, 4, 4)), (128, 4, (8, 4, 4)), (64, 3, (8, 8, 1)), (96, 3, (8, 4, 3)),
     (80, 4, (5, 4, 4)), (64, 1, (8, 8, 1))],
)  # fmt: skip
def test_heads_of_real_models(head_size, thickness, block):
    site = Site(name="q", layer=0, role="q", width=9 * head_size, n_heads=9, head_size=head_size)
    assert site_tiles(site, thickness).block == block


@given(BOXES, st.integers(1, 150))
def test_shelved_boxes_keep_their_distance(boxes, width):
    corners, extent = shelve(boxes, width)
    assert extent[0] <= max(width, max(columns for columns, _ in boxes))
    padded = np.zeros((extent[0] + GAP, extent[1] + GAP), dtype=int)
    for (column, row), (columns, rows) in zip(corners, boxes, strict=True):
        padded[column : column + columns + GAP, row : row + rows + GAP] += 1
        assert column + columns <= extent[0]
        assert row + rows <= extent[1]
    assert padded.max() == 1


def test_a_gap_on_a_shelf_is_filled_by_what_fits():
    corners, extent = shelve([(9, 9), (9, 9), (30, 5), (9, 9)], width=30)
    assert corners == [(0, 0), (10, 0), (0, 10), (20, 0)]
    assert extent == (30, 15)


@given(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12)))
def test_a_block_is_laid_flat_as_square_as_its_slices_allow(block):
    columns, rows, depth = block
    ratios = {
        n: max(columns * n, rows * depth // n) / min(columns * n, rows * depth // n)
        for n in range(1, depth + 1)
        if depth % n == 0
    }
    assert ratios[columns_across(block)] <= 1.01 * min(ratios.values())


def test_native_order_fills_a_block_column_by_column_row_by_row_slice_by_slice():
    tiles = site_tiles(Site(name="a", layer=0, role="a", width=24), 2)
    expected = [(x, y, z) for z, y, x in itertools.product(range(2), range(3), range(4))]
    assert panel_voxels(tiles, (4, 3)).tolist() == [list(voxel) for voxel in expected]
