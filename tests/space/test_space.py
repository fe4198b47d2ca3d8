import dataclasses
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import ModelError, SpaceError, UsageError
from llm2bids.space.space import WHITE, Space


def image(space, data=None, affine=None):
    data = np.zeros(space.shape, dtype=np.float32) if data is None else data
    return nib.Nifti1Image(data, space.affine if affine is None else affine)


def test_tissues_part_the_grid(space):
    assert space.grey.sum() == space.n_units
    assert not np.any(space.grey & space.white)
    np.testing.assert_array_equal(space.brain, space.grey | space.white)
    assert space.brain[space.brain_box].all()
    assert space.brain.sum() == space.brain[space.brain_box].size


def test_the_values_of_known_units_lie_at_their_voxels(space):
    values = np.arange(2 * space.n_units).reshape(2, -1)
    grid = space.to_grid(values, fill=-1)
    unit = space.unit_of("model.layers.1.self_attn.q_proj[7]")
    i, j, k = space.voxels[unit]
    assert grid[i, j, k].tolist() == [unit, space.n_units + unit]
    assert np.all(grid[space.white] == -1)
    assert grid.flags.f_contiguous


def test_look_up_by_address_and_voxel(space):
    unit = space.unit_of("model.layers.2.mlp.act_fn[36]")
    assert unit == space.site_slices["model.layers.2.mlp.act_fn"].stop - 1
    assert space.address_of(unit) == "model.layers.2.mlp.act_fn[36]"
    assert space.unit_at(*space.voxels[unit]) == unit
    assert space.unit_at(0, 0, 0) is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.unit_at(0, -1, 0), SpaceError, r"voxel \(0, -1, 0\) is not on the grid"),
        (lambda s: s.unit_of("model.lm_head[3]"), SpaceError, "no site model.lm_head"),
        (lambda s: s.unit_of("model.norm[13]"), SpaceError, "model.norm has units 0 to 12"),
        (lambda s: s.unit_of("model.norm"), ModelError, "not of the form"),
        (lambda s: s.address_of(s.n_units), SpaceError, "has units 0 to"),
        (lambda s: s.address_of(-1), SpaceError, "has units 0 to"),
        (lambda s: s.crop(None), UsageError, "sites is None; expected text or a list"),
        (lambda s: s.address_of(1.5), SpaceError, "has units 0 to"),
        (lambda s: s.address_of("x"), SpaceError, "has units 0 to"),
        (lambda s: s.unit_at("a", 0, 0.5), SpaceError, "is not on the grid"),
        (lambda s: s.unit_of(3), ModelError, "not of the form"),
        (lambda s: s.to_grid(np.zeros(5)), SpaceError, r"values have shape \(5,\)"),
        (lambda s: s.to_grid(3.0), SpaceError, r"values have shape \(\)"),
        (lambda s: s.to_units(np.zeros((4, 5, 6))), SpaceError, r"array has shape \(4, 5, 6\)"),
        (lambda s: s.to_units([[1, 2]]), SpaceError, "image is a list; expected a path or"),
        (lambda s: s.to_units("nothing.nii"), SpaceError, "nothing.nii does not exist"),
    ],
)
def test_wrong_questions_are_refused(space, call, error, message):
    with pytest.raises(error, match=message):
        call(space)


def test_images_and_paths_are_read(space, tmp_path):
    values = np.arange(space.n_units, dtype=np.float32)
    img = image(space, space.to_grid(values))
    path = tmp_path / "map.nii.gz"
    nib.save(img, path)
    for source in (img, path, str(path)):
        space.check_grid(source)
        np.testing.assert_array_equal(space.to_units(source), values)


def test_another_affine_is_refused_with_both_affines(space):
    affine = space.affine.copy()
    affine[0, 3] += 2
    other = image(space, affine=affine)
    with pytest.raises(SpaceError, match=r"z.nii is not on the grid of Tiny: its affine is \[\["):
        space.check_grid(other, name="z.nii")
    affine[0, 3] -= 2 - 1e-5
    space.check_grid(image(space, affine=affine))


def test_the_table_names_every_unit(space):
    table = space.unit_table()
    assert len(table) == space.n_units
    row = table.iloc[space.unit_of("model.layers.1.self_attn.q_proj[13]")]
    assert row["module"] == "model.layers.1.self_attn.q_proj"
    assert (row["layer"], row["role"], row["head"], row["unit"]) == (1, "self_attn.q_proj", 2, 13)
    voxel = row[["i", "j", "k"]].to_numpy(dtype=int)
    np.testing.assert_allclose(
        row[["x", "y", "z"]].to_numpy(dtype=float), (space.affine @ [*voxel, 1])[:3]
    )
    assert str(table["layer"].dtype) == str(table["head"].dtype) == "Int64"
    assert pd.isna(table["layer"].iloc[0])
    assert pd.isna(table["head"].iloc[0])


def test_a_table_from_a_file_makes_the_same_space(space, tmp_path):
    path = tmp_path / "units.tsv"
    space.unit_table().to_csv(path, sep="\t", index=False, na_rep="n/a")
    again = Space.from_table(pd.read_csv(path, sep="\t"), space.metadata())
    assert again.fingerprint() == space.fingerprint()
    assert again.sites == space.sites
    as_text = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    assert Space.from_table(as_text, space.metadata()).fingerprint() == space.fingerprint()


def test_incomplete_or_foreign_metadata_are_refused(space):
    metadata = space.metadata()
    del metadata["brain_box"]
    with pytest.raises(SpaceError, match="lack brain_box"):
        Space.from_table(space.unit_table(), metadata)
    metadata = space.metadata() | {"brain_box": [[3, 6], [3, 6], [3, 6]]}
    with pytest.raises(SpaceError, match="outside the brain"):
        Space.from_table(space.unit_table(), metadata)
    metadata = space.metadata() | {"shape": [5, 6, 7]}
    with pytest.raises(SpaceError, match="outside the brain"):
        Space.from_table(space.unit_table(), metadata)
    for wrong in ({"shape": [5, 6]}, {"affine": [1, 2]}, {"brain_box": 3}, {"shape": "abc"}):
        with pytest.raises(SpaceError, match="not numbers of a three-dimensional grid"):
            Space.from_table(space.unit_table(), space.metadata() | wrong)
    metadata = space.metadata() | {"weights_sha256": "cd" * 32}
    with pytest.raises(SpaceError, match="do not give the fingerprint"):
        Space.from_table(space.unit_table(), metadata)


def test_a_brain_that_is_no_box_is_refused(space):
    tissue = space.tissue.copy()
    corner = np.argwhere(tissue == WHITE)[0]
    tissue[tuple(corner)] = 0
    with pytest.raises(SpaceError, match="not a box"):
        _ = dataclasses.replace(space, tissue=tissue).brain_box


def test_the_fingerprint_tells_what_matters(space, calibration):
    prints = {
        space.fingerprint(),
        space.fingerprint(calibration),
        space.fingerprint(dataclasses.replace(calibration, mean=calibration.mean + 1)),
        space.fingerprint(dataclasses.replace(calibration, sd=calibration.sd * 2)),
        dataclasses.replace(space, weights_sha256="cd" * 32).fingerprint(),
        dataclasses.replace(space, arrangement="functional").fingerprint(),
        dataclasses.replace(space, voxels=space.voxels[::-1]).fingerprint(),
        dataclasses.replace(space, sites=space.sites[::-1]).fingerprint(),
    }
    assert len(prints) == 8
    assert {len(one) for one in prints} == {64}
    same = tuple(dataclasses.replace(site, token_axis=2) for site in space.sites)
    assert dataclasses.replace(space, sites=same).fingerprint() == space.fingerprint()
    relabelled = dataclasses.replace(space, label="Other")
    assert relabelled.fingerprint(calibration) == space.fingerprint(calibration)


def test_the_name_of_an_image_without_a_file(space):
    other = SimpleNamespace(affine=1)
    with pytest.raises(SpaceError, match="is a SimpleNamespace"):
        space.check_grid(other)


def test_a_space_prints_in_one_line(space):
    assert repr(space) == (
        f"Space(Tiny, {space.n_units} units of 14 sites, grid {space.shape}, index arrangement)"
    )
