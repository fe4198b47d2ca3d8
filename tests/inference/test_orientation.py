"""A dataset and results whose images another tool stored with other axes give the same numbers."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from llm2bids.dataset.check import check_dataset
from llm2bids.dataset.read import open_dataset
from llm2bids.exceptions import SpaceError
from llm2bids.inference.analyze import analyze_group, analyze_participants
from llm2bids.inference.confounds import load_confounds


def store_anew(path, codes):
    """Store an image with other axes, in place, as another tool does."""
    image = nib.load(path)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    other = image.as_reoriented(turn)
    assert nib.aff2axcodes(other.affine) == tuple(codes)
    data = np.asarray(other.dataobj)
    path.unlink()  # raw and derived series are one file
    nib.save(nib.Nifti1Image(data, other.affine, other.header), path)


def values(folder, space, pattern):
    images = sorted(folder.rglob(pattern))
    assert images
    return {str(path.relative_to(folder)): space.to_units(path) for path in images}


def assert_same(one, other):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.fixture(params=["LAS", "LPS", "PSR"])
def codes(request):
    return request.param


@pytest.fixture
def stored_anew(drinks, codes, tmp_path):
    """Every image of a dataset: series, masks, references, calibration, anatomy, atlases."""
    copy = shutil.copytree(drinks, tmp_path / "bids")
    images = sorted(copy.rglob("*.nii.gz"))
    assert len({path.name.rpartition("_")[2] for path in images}) >= 5
    for path in images:
        store_anew(path, codes)
    return copy


def test_values_first_level_and_confounds(drinks, analysed, stored_anew, tmp_path):
    before, after = open_dataset(drinks), open_dataset(stored_anew)
    np.testing.assert_array_equal(after.calibration.mean, before.calibration.mean)
    np.testing.assert_array_equal(after.calibration.sd, before.calibration.sd)
    for run, turned in zip(before.runs, after.runs, strict=True):
        np.testing.assert_array_equal(after.values(turned), before.values(run))
        np.testing.assert_array_equal(
            after.load_run(turned).get_fdata(), before.load_run(run).get_fdata()
        )
        expected, _ = load_confounds(run.preproc, ["global_signal"])
        np.testing.assert_allclose(load_confounds(turned.preproc, ["global_signal"])[0], expected)
    result = analyze_participants(stored_anew, tmp_path / "out", progress=False)
    assert result.failed == ()
    assert_same(
        values(analysed, before.space, "*_statmap.nii.gz"),
        values(tmp_path / "out", before.space, "*_statmap.nii.gz"),
    )
    told = [str(fault) for fault in check_dataset(stored_anew).faults]
    assert not [text for text in told if "grid" in text or "readable" in text]


def test_group_level_of_effect_maps_stored_anew(drinks, analysed, codes, tmp_path):
    space = open_dataset(drinks).space
    folders = [shutil.copytree(analysed, tmp_path / name) for name in ("plain", "turned")]
    for path in sorted(folders[1].glob("sub-*/func/*.nii.gz")):
        store_anew(path, codes)
    for folder in folders:
        analyze_group(drinks, folder, progress=False)
    plain, turned = (values(folder / "group", space, "*.nii.gz") for folder in folders)
    assert_same(plain, turned)


def test_a_mask_stored_anew(drinks, codes, tmp_path):
    dataset = open_dataset(drinks)
    half = np.arange(dataset.space.n_units) % 2 == 0
    mask = dataset.space.to_grid(half.astype(np.uint8))
    maps = []
    for name in ("plain", "turned"):
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(mask, dataset.space.affine), path)
        if name == "turned":
            store_anew(path, codes)
        options = {"mask_img": path, "participant_label": ["01"], "progress": False}
        analyze_participants(drinks, tmp_path / name, **options)
        maps.append(values(tmp_path / name, dataset.space, "*_stat-effect_statmap.nii.gz"))
    assert_same(*maps)
    for effect in maps[0].values():
        np.testing.assert_array_equal(effect != 0, half)


def test_a_series_or_map_on_another_affine_is_refused(drinks, analysed, tmp_path):
    copy = shutil.copytree(drinks, tmp_path / "bids")
    run = open_dataset(copy).runs[0]
    image = nib.load(run.preproc)
    affine = image.affine.copy()
    affine[0, 3] += 2
    data = np.asarray(image.dataobj)
    run.preproc.unlink()
    nib.save(nib.Nifti1Image(data, affine), run.preproc)
    result = analyze_participants(
        copy, tmp_path / "o", participant_label=["01"], task=[run.task, "milk"], progress=False
    )
    assert "is not on the grid of Drinks: its affine" in result.failed[0].reason
    folder = shutil.copytree(analysed, tmp_path / "maps")
    path = sorted(folder.glob("sub-01/func/*_stat-effect_statmap.nii.gz"))[0]
    nib.save(nib.Nifti1Image(nib.load(path).get_fdata(), affine), path)
    with pytest.raises(SpaceError, match=r"stat-effect_statmap.* is not on the grid"):
        analyze_group(drinks, folder, progress=False)
