import dataclasses

import nibabel as nib
import numpy as np
import pytest

from llm2bids.space.header import bold_window, fingerprint_differs, image_header, read_fingerprint

PRINT = "0123456789abcdef" + "f" * 48


def test_a_series_has_all_that_tools_read(space, calibration):
    window = bold_window(calibration)
    header = image_header(
        space, fingerprint=PRINT, dtype="int16", n_volumes=9, t_r=0.25, window=window
    )
    assert header.get_data_shape() == (*space.shape, 9)
    assert header.get_data_dtype() == np.int16
    np.testing.assert_allclose(header.get_zooms(), (2, 2, 2, 0.25))
    assert header.get_xyzt_units() == ("mm", "sec")
    for form in (header.get_qform, header.get_sform):
        affine, code = form(coded=True)
        np.testing.assert_allclose(affine, space.affine, atol=1e-5)
        assert code == 1
    assert header.get_slope_inter() == (1, 0)
    assert (header["cal_min"], header["cal_max"]) == (9700, 10300)
    assert header["magic"].item() == b"n+1"
    assert header["vox_offset"] == 352
    assert header["descrip"].item() == b"llm2bids Tiny 0123456789abcdef"


def test_the_header_and_a_block_of_volumes_are_a_file(space, calibration, values, tmp_path):
    volumes = space.to_grid(np.arange(3 * space.n_units, dtype=np.int16).reshape(3, -1))
    header = image_header(space, fingerprint=PRINT, dtype="int16", n_volumes=3, t_r=0.5)
    path = tmp_path / "bold.nii"
    in_file_order = np.ascontiguousarray(volumes.T, dtype="<i2")
    path.write_bytes(header.binaryblock + bytes(4) + in_file_order.tobytes())
    img = nib.load(path)
    np.testing.assert_array_equal(np.asanyarray(img.dataobj), volumes)
    assert np.asanyarray(img.dataobj).dtype == np.int16
    space.check_grid(img)
    assert read_fingerprint(img.header) == PRINT[:16]


def test_a_single_volume(space):
    header = image_header(space, fingerprint=PRINT, dtype="float32")
    assert header.get_data_shape() == space.shape
    assert header.get_xyzt_units() == ("mm", "sec")
    again = nib.Nifti1Image(np.zeros(space.shape, np.float32), header.get_best_affine(), header)
    np.testing.assert_allclose(again.affine, space.affine, atol=1e-5)


def test_a_long_label_is_cut_and_the_fingerprint_is_not(space):
    long = dataclasses.replace(space, label="M" * 90)
    header = image_header(long, fingerprint=PRINT, dtype="uint8")
    assert len(header["descrip"].item()) == 79
    assert read_fingerprint(header) == PRINT[:16]


@pytest.mark.parametrize("text", [b"", b"6.0.5:9e026117", b"llm2bids Tiny 0123", b"\xff\xfe"])
def test_descriptions_of_other_tools_are_no_fingerprint(text):
    header = nib.Nifti1Header()
    header["descrip"] = text
    assert read_fingerprint(header) is None
    assert fingerprint_differs(header, PRINT) is None


def test_headers_without_description_have_no_fingerprint():
    assert read_fingerprint(nib.minc1.MincHeader()) is None


def test_fingerprints_are_compared(space):
    header = image_header(space, fingerprint=PRINT, dtype="int16")
    assert fingerprint_differs(header, "e" * 64, PRINT) is None
    assert fingerprint_differs(header, "e" * 64) == PRINT[:16]


def test_a_mask_is_shown_from_0_to_1_unless_told_otherwise(space):
    mask = image_header(space, fingerprint=PRINT, dtype="uint8")
    assert (mask["cal_min"], mask["cal_max"]) == (0, 1)
    other = image_header(space, fingerprint=PRINT, dtype="uint8", window=(0, 3))
    assert (other["cal_min"], other["cal_max"]) == (0, 3)
    statistic = image_header(space, fingerprint=PRINT, dtype="float32")
    assert (statistic["cal_min"], statistic["cal_max"]) == (0, 0)
