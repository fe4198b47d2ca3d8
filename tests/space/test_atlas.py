import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.atlas import (
    ATLAS_COLUMNS,
    PALETTE,
    head_atlas,
    label_lists,
    role_colors,
    site_atlas,
)
from llm2bids.space.header import image_header
from tests.synthetic import build, one_site


def test_every_site_is_a_region(space):
    atlas = site_atlas(space)
    assert tuple(atlas.table.columns) == ATLAS_COLUMNS
    assert atlas.table["index"].tolist() == list(range(1, 15))
    assert atlas.labels.dtype == np.int16
    assert atlas.table["head"].isna().all()
    for row, site in zip(atlas.table.itertuples(), space.sites, strict=True):
        units = space.voxels[space.site_slices[site.name]]
        assert (row.module, row.role) == (site.name, site.role)
        assert set(atlas.labels[tuple(units.T)].tolist()) == {row[1]}
    assert np.array_equal(atlas.labels > 0, space.grey)


def test_every_head_is_a_region(space):
    atlas = head_atlas(space)
    assert len(atlas.table) == 3 * (5 + 2)
    region = atlas.table.set_index("name").loc["L01SelfAttnQProjH03"]
    assert (region["layer"], region["head"], region["role"]) == (1, 3, "self_attn.q_proj")
    table = space.unit_table()
    rows = (table["module"] == region["module"]) & (table["head"] == 3)
    voxels = table.loc[rows, ["i", "j", "k"]].to_numpy()
    assert len(voxels) == 6
    assert np.all(atlas.labels[tuple(voxels.T)] == region["index"])
    assert np.count_nonzero(atlas.labels) == 3 * (30 + 12)


def test_names_are_unique_and_alphanumeric():
    roles = ["mlp.down_proj", "mlp.downproj", "mlp.down.proj", "_", "mlp.down_projN2"]
    sites = [Site(name=f"m.{role}", layer=0, role=role, width=4) for role in roles]
    names = site_atlas(build(sites)).table["name"].tolist()
    assert len({name.lower() for name in names}) == len(roles)
    assert all(re.fullmatch("[0-9A-Za-z]+", name) for name in names)
    assert names[0] == "L00MlpDownProj"


def test_a_role_has_one_colour_and_neighbouring_heads_differ(space):
    table = site_atlas(space).table
    assert table.groupby("role")["color"].nunique().max() == 1
    assert table.groupby("role")["color"].first().nunique() == 6
    colours = head_atlas(space).table["color"].tolist()
    assert colours[0] == table.set_index("name")["color"]["L00SelfAttnQProj"]
    assert colours[0] == colours[2] != colours[1] == colours[3]
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)


def test_the_palette_is_legible_on_black_and_white():
    def luminance(colour):
        parts = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    assert len(set(PALETTE)) == len(PALETTE) == 20
    assert all(0.1 < luminance(colour) < 0.65 for colour in PALETTE)


def test_the_palette_begins_again():
    colours = role_colors(f"role{number}" for number in range(45))
    assert colours["role0"] == colours["role20"] == colours["role40"]


def test_many_regions_need_wider_labels():
    space = one_site(40_000, n_heads=40_000, head_size=1)
    assert head_atlas(space).labels.dtype == np.int32


def test_a_space_without_heads_has_no_head_atlas():
    with pytest.raises(SpaceError, match="no attention heads"):
        head_atlas(one_site(5))


def test_nilearn_reads_the_atlas_and_its_table(space, tmp_path):
    atlas = site_atlas(space)
    header = image_header(space, fingerprint=space.fingerprint(), dtype=atlas.labels.dtype.name)
    img = nib.Nifti1Image(atlas.labels, space.affine, header)
    values = space.site_of_unit + 1.0
    series = np.stack([values, -values, 2 * values]).astype(np.float32)
    bold = nib.Nifti1Image(space.to_grid(series), space.affine)
    path = tmp_path / "lut.tsv"
    atlas.table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    masker = NiftiLabelsMasker(img, lut=pd.read_csv(path, sep="\t"), standardize=None)
    found = masker.fit_transform(bold)
    np.testing.assert_allclose(found[0], np.arange(1, 15), rtol=1e-5)
    names = [name for name in masker.region_names_.values() if name != "Background"]
    assert names == atlas.table["name"].tolist()


def test_label_lists_say_what_the_table_says(space):
    table = site_atlas(space).table
    lists = label_lists(table)
    workbench = lists[".txt"].splitlines()
    assert workbench[::2] == table["name"].tolist()
    assert workbench[1::2][1].split() == ["2", *map(str, rgb(table["color"][1])), "255"]
    fsleyes = [line.split(" ") for line in lists[".lut"].splitlines()]
    assert [int(row[0]) for row in fsleyes] == table["index"].tolist()
    shares = [float(share) for share in fsleyes[1][1:4]]
    np.testing.assert_allclose(shares, np.divide(rgb(table["color"][1]), 255), atol=1e-4)
    assert fsleyes[1][4] == table["name"][1]
    niivue = json.loads(lists[".json"])
    place = niivue["I"].index(2)
    assert niivue["labels"][place] == table["name"][1]
    assert [niivue[channel][place] for channel in "RGBA"] == [*rgb(table["color"][1]), 255]
    assert (niivue["I"][0], niivue["A"][0], niivue["labels"][0]) == (0, 0, "background")


def rgb(color):
    return [int(color[start : start + 2], 16) for start in (1, 3, 5)]
