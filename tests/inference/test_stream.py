"""Reading volumes block by block, and files that are damaged."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from llm2bids.exceptions import InferenceError
from llm2bids.inference.blocks import block_edges, transposed
from llm2bids.inference.stream import masked_volumes, stream_volumes


@pytest.mark.parametrize("n_volumes", [1, 7, 45, 100])
def test_stream_gives_the_image(run, n_volumes):
    blocks = [block for _, block in stream_volumes(run.path, n_volumes=n_volumes)]
    np.testing.assert_array_equal(np.concatenate(blocks).T, run.counts)


def test_uncompressed_and_scaled_images_are_read_too(run, tmp_path):
    image = nib.Nifti1Image(run.counts, run.image.affine)
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(tmp_path / "bold.nii")
    expected = nib.load(tmp_path / "bold.nii").get_fdata()
    (_, values), *_ = stream_volumes(tmp_path / "bold.nii", n_volumes=50)
    np.testing.assert_allclose(values.T, expected)


def test_masked_volumes_are_in_nilearns_order(run):
    values = np.concatenate([block for _, block in masked_volumes(run.path, run.mask)])
    np.testing.assert_array_equal(values, run.counts[run.mask].T)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_image_is_named_with_the_volumes_that_can_be_read(run, share):
    whole = run.path.read_bytes()
    run.path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InferenceError, match=r"bold.nii.gz: truncated or damaged, \d+ of 45"):
        list(stream_volumes(run.path))


def test_an_image_with_fewer_volumes_than_its_header_says(run):
    content = gzip.decompress(run.path.read_bytes())
    run.path.write_bytes(gzip.compress(content[:-1000]))
    with pytest.raises(InferenceError, match="44 of 45 volumes can be read"):
        list(stream_volumes(run.path, n_volumes=5))


def test_damaged_missing_and_foreign_files(run, tmp_path):
    content = bytearray(run.path.read_bytes())
    content[len(content) // 2 :] = b"\x00" * (len(content) - len(content) // 2)
    run.path.write_bytes(bytes(content))
    with pytest.raises(InferenceError, match="truncated or damaged"):
        list(stream_volumes(run.path))
    with pytest.raises(InferenceError, match="no such file"):
        list(stream_volumes(tmp_path / "none.nii.gz"))
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(InferenceError, match="not a readable NIfTI image"):
        list(stream_volumes(tmp_path / "text.nii.gz"))
    nib.Nifti1Image(run.counts[..., 0], np.eye(4)).to_filename(tmp_path / "single.nii.gz")
    with pytest.raises(InferenceError, match="has 3 dimensions, expected 4"):
        list(stream_volumes(tmp_path / "single.nii.gz"))


def test_a_mask_of_another_grid_is_refused(run):
    with pytest.raises(InferenceError, match=r"grid \(7, 8, 9\), the mask has \(7, 8, 10\)"):
        list(masked_volumes(run.path, np.ones((7, 8, 10), dtype=bool)))


def test_scratch_file_gives_the_columns_back(run):
    expected = run.counts[run.mask].T
    edges = block_edges(expected.shape[1], 45, mem_gb=0.00005)
    with transposed(masked_volumes(run.path, run.mask, n_volumes=4), edges, 45) as scratch:
        parts = [scratch.read(block) for block in range(edges.size - 1)]
    assert len(parts) > 2
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)
    assert not scratch.path.exists()
