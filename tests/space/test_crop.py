"""A part of a space: the same voxels in millimetres, on the smallest grid."""

import nibabel as nib
import numpy as np
import pytest

from llm2bids.dataset.locate import locate
from llm2bids.exceptions import ModelError, SpaceError


@pytest.mark.parametrize("patterns", ["residual", ["model.layers.1.self_attn.*"], "mlp", "all"])
def test_units_stay_at_their_place(space, patterns):
    part = space.crop(patterns)
    whole = space.unit_table().set_index("address").loc[part.unit_table()["address"]]
    for axis in "xyz":
        np.testing.assert_array_equal(part.unit_table()[axis], whole[axis])
    assert part.grey.sum() == part.n_units == len(whole)
    assert (part.voxels.min(axis=0) == 0).all()
    assert (part.voxels.max(axis=0) + 1 == part.shape).all()


def test_a_map_of_the_part_names_its_units(space):
    part = space.crop("model.layers.2.mlp.act_fn")
    values = np.zeros(part.n_units, dtype=np.float32)
    values[[5, 30]] = 2, 3
    stat_img = nib.Nifti1Image(part.to_grid(values), part.affine)
    table = locate(stat_img, part, threshold=1)
    assert table["address"].tolist() == [f"model.layers.2.mlp.act_fn[{n}]" for n in (30, 5)]
    with pytest.raises(SpaceError, match="not on the grid"):
        locate(stat_img, space, threshold=1)


def test_a_part_of_a_part(space):
    part = space.crop(["attention", "!*.k_proj"]).crop("model.layers.0.*")
    assert [site.name for site in part.sites] == ["model.layers.0.self_attn.q_proj"]
    np.testing.assert_allclose(
        part.unit_table()["z"], space.unit_table()["z"][space.site_slices[part.sites[0].name]]
    )


def test_sites_that_are_not_there_are_refused(space):
    with pytest.raises(ModelError, match="matches no module"):
        space.crop("model.layers.9.*")
