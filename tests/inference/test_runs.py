"""Reading the volumes of units block by block."""

import nibabel as nib
import numpy as np
import pytest
from nilearn.image import smooth_img

from llm2bids.exceptions import UsageError
from llm2bids.inference.runs import block_edges, transposed, unit_volumes
from llm2bids.space.grid import open_image


def test_volumes_have_the_units_in_the_order_of_their_voxels(run):
    voxels = np.random.default_rng(0).permutation(run.voxels)
    blocks = [block for _, block in unit_volumes(open_image(run.path), voxels)]
    np.testing.assert_array_equal(np.concatenate(blocks), run.counts[tuple(voxels.T)].T)


def test_smoothing_is_nilearns_on_an_image_with_other_axes_too(run, tmp_path):
    expected = smooth_img(run.image, 5).get_fdata()[run.mask].T
    turn = nib.orientations.axcodes2ornt("PIL")
    nib.save(run.image.as_reoriented(turn), tmp_path / "turned.nii.gz")
    for path in (run.path, tmp_path / "turned.nii.gz"):
        blocks = unit_volumes(open_image(path), run.voxels, smoothing_fwhm=5)
        values = np.concatenate([block for _, block in blocks])
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_kernel_wider_than_the_image_is_refused(run):
    with pytest.raises(UsageError, match=r"is 1e\+09; expected at most .* the longest side"):
        list(unit_volumes(open_image(run.path), run.voxels, smoothing_fwhm=1e9))


def test_scratch_file_gives_the_columns_back(run):
    expected = run.counts[run.mask].T
    edges = block_edges(expected.shape[1], 45, mem_gb=0.00005)
    volumes = unit_volumes(open_image(run.path), run.voxels, n_volumes=4)
    with transposed(volumes, edges, 45) as scratch:
        parts = [scratch(block) for block in range(edges.size - 1)]
    assert len(parts) > 2
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)
