"""Reading masked volumes block by block."""

import nibabel as nib
import numpy as np
import pytest
from nilearn.image import smooth_img

from llm2bids.exceptions import InferenceError
from llm2bids.inference.blocks import block_edges, transposed
from llm2bids.inference.stream import masked_volumes
from llm2bids.space.grid import open_image


def test_masked_volumes_are_in_nilearns_order(run):
    blocks = [block for _, block in masked_volumes(open_image(run.path), run.mask)]
    np.testing.assert_array_equal(np.concatenate(blocks), run.counts[run.mask].T)


def test_smoothing_is_nilearns_on_an_image_with_other_axes_too(run, tmp_path):
    expected = smooth_img(run.image, 5).get_fdata()[run.mask].T
    turn = nib.orientations.axcodes2ornt("PIL")
    nib.save(run.image.as_reoriented(turn), tmp_path / "turned.nii.gz")
    for path in (run.path, tmp_path / "turned.nii.gz"):
        blocks = masked_volumes(open_image(path), run.mask, smoothing_fwhm=5)
        values = np.concatenate([block for _, block in blocks])
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_mask_of_another_grid_is_refused(run):
    with pytest.raises(InferenceError, match=r"grid \(7, 8, 9\), the mask has \(7, 8, 10\)"):
        list(masked_volumes(open_image(run.path), np.ones((7, 8, 10), dtype=bool)))


def test_scratch_file_gives_the_columns_back(run):
    expected = run.counts[run.mask].T
    edges = block_edges(expected.shape[1], 45, mem_gb=0.00005)
    volumes = masked_volumes(open_image(run.path), run.mask, n_volumes=4)
    with transposed(volumes, edges, 45) as scratch:
        parts = [scratch.read(block) for block in range(edges.size - 1)]
    assert len(parts) > 2
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)
    assert not scratch.path.exists()
