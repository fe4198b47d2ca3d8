import logging

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel

from llm2bids.dataset.locate import locate
from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.recording.calibration import Calibration
from llm2bids.report.flatmap import plot_flatmap
from llm2bids.space.header import image_header
from llm2bids.space.stat_map import LOCATE_COLUMNS, summarize, unit_values, units_at
from tests.synthetic import build, encode


@pytest.fixture(scope="module")
def space():
    heads = {"n_heads": 3, "head_size": 6}
    sites = [Site(name="model.embed_tokens", layer=None, role="model.embed_tokens", width=11)]
    for layer in range(3):
        stem = f"model.layers.{layer}"
        sites += [
            Site(name=f"{stem}.attn.q", layer=layer, role="attn.q", width=18, **heads),
            Site(name=f"{stem}.mlp.act", layer=layer, role="mlp.act", width=40),
        ]
    return build(sites)


def stat_map(space, found, *, background=0.0, fingerprint=None):
    values = np.full(space.n_units, background, dtype=np.float32)
    for address, value in found.items():
        values[space.unit_of(address)] = value
    header = None
    if fingerprint is not None:
        header = image_header(space, fingerprint=fingerprint, dtype="float32")
    return nib.Nifti1Image(space.to_grid(values), space.affine, header)


FOUND = {
    "model.layers.1.mlp.act[7]": 4.5,
    "model.layers.2.attn.q[13]": -6.25,
    "model.embed_tokens[2]": 3.25,
    "model.layers.1.mlp.act[39]": 2.5,
}


def test_units_above_the_threshold_are_listed_largest_first(space):
    table = locate(stat_map(space, FOUND), space, threshold=3)
    assert tuple(table.columns) == LOCATE_COLUMNS
    assert table["address"].tolist() == [
        "model.layers.2.attn.q[13]",
        "model.layers.1.mlp.act[7]",
        "model.embed_tokens[2]",
    ]
    assert table["value"].tolist() == [-6.25, 4.5, 3.25]
    first = table.iloc[0]
    columns = ["module", "layer", "role", "head", "unit"]
    assert first[columns].tolist() == ["model.layers.2.attn.q", 2, "attn.q", 2, 13]
    voxel = space.voxels[space.unit_of("model.layers.2.attn.q[13]")]
    np.testing.assert_allclose(
        first[["x", "y", "z"]].to_numpy(dtype=float), (space.affine @ [*voxel, 1])[:3]
    )
    assert pd.isna(table["layer"].iloc[2])
    assert pd.isna(table["head"].iloc[1])


def test_the_rows_are_those_of_the_unit_table(space):
    img = stat_map(space, {}, background=1.0)
    table = locate(img, space, threshold=0)
    everything = space.unit_table()
    columns = list(LOCATE_COLUMNS[:-1])
    pd.testing.assert_frame_equal(table[columns], everything[columns])
    assert table.dtypes.astype(str).to_dict() == {
        **everything[columns].dtypes.astype(str).to_dict(),
        "value": "float64",
    }


def test_one_sided_leaves_negative_values_out(space):
    table = locate(stat_map(space, FOUND), space, threshold=2.5, two_sided=False)
    assert table["value"].tolist() == [4.5, 3.25]


def test_a_thresholded_map_gives_its_surviving_units(space):
    assert len(locate(stat_map(space, FOUND), space, threshold=0)) == 4


def test_nothing_above_the_threshold_is_an_empty_table(space):
    table = locate(stat_map(space, FOUND), space, threshold=99)
    assert len(table) == 0
    assert tuple(table.columns) == LOCATE_COLUMNS
    assert len(summarize(table, space)) == 0


def test_the_top_share_of_all_units(space):
    rng = np.random.default_rng(3)
    values = rng.standard_normal(space.n_units)
    img = nib.Nifti1Image(space.to_grid(values), space.affine)
    for percent, two_sided in [(5, True), (12.5, False), (100, True)]:
        table = locate(img, space, top_percent=percent, two_sided=two_sided)
        strength = np.abs(values) if two_sided else values
        expected = np.sort(strength)[::-1][: int(np.ceil(space.n_units * percent / 100))]
        np.testing.assert_allclose(np.sort(table["value"].abs())[::-1], expected)


def test_units_at_zero_are_never_at_the_top(space):
    assert len(locate(stat_map(space, FOUND), space, top_percent=50)) == 4
    assert len(locate(stat_map(space, FOUND), space, top_percent=50, two_sided=False)) == 3


def test_units_that_are_nan_are_left_out(space):
    img = stat_map(space, {**FOUND, "model.layers.0.attn.q[3]": np.nan})
    assert len(locate(img, space, threshold=0)) == 4
    assert len(locate(img, space, top_percent=100)) == 4


def test_voxels_without_a_unit_do_not_count(space):
    data = stat_map(space, FOUND).get_fdata()
    data[space.white] = 50
    data[0, 0, 0] = np.nan
    assert len(locate(nib.Nifti1Image(data, space.affine), space, threshold=3)) == 3


def test_files_and_single_volume_series_are_read(space, tmp_path):
    img = stat_map(space, FOUND)
    path = tmp_path / "z.nii.gz"
    nib.save(nib.Nifti1Image(img.get_fdata()[..., np.newaxis], space.affine), path)
    assert len(locate(path, space, threshold=3)) == 3


def test_the_summary_counts_by_layer_and_role(space):
    found = {**FOUND, "model.layers.1.mlp.act[8]": -3.5}
    summary = summarize(locate(stat_map(space, found), space, threshold=2), space)
    assert summary["role"].tolist() == ["model.embed_tokens", "mlp.act", "attn.q"]
    assert summary["layer"].tolist() == [pd.NA, 1, 2]
    assert summary["n_units"].tolist() == [1, 3, 1]
    assert summary["n_positive"].tolist() == [1, 2, 0]
    np.testing.assert_allclose(summary["share"], [1 / 11, 3 / 40, 1 / 18])
    np.testing.assert_allclose(summary["mean"], [3.25, 3.5 / 3, -6.25])
    np.testing.assert_allclose(summary["peak"], [3.25, 4.5, -6.25])
    assert summary["peak_address"].iloc[1] == "model.layers.1.mlp.act[7]"


def test_another_grid_is_refused_with_both(space):
    n_x, n_y, n_z = space.shape
    shape = nib.Nifti1Image(np.zeros((n_x, n_y, n_z + 1), dtype="f4"), space.affine)
    with pytest.raises(SpaceError, match=rf"{n_z + 1}\), expected .*{n_z}\)"):
        locate(shape, space, threshold=1)
    moved = nib.Nifti1Image(np.zeros(space.shape, dtype="f4"), 3 * space.affine)
    with pytest.raises(SpaceError, match="its affine is"):
        locate(moved, space, threshold=1)


def test_a_series_is_refused_with_advice(space):
    series = nib.Nifti1Image(np.zeros((*space.shape, 5), dtype="f4"), space.affine)
    with pytest.raises(SpaceError, match=r"has 5 volumes, expected one.*index_img"):
        locate(series, space, threshold=1)


@pytest.mark.parametrize("codes", ["LAS", "LPS", "PSR"])
def test_a_map_with_other_axes_gives_the_same_table_and_figure(space, codes, tmp_path):
    img = stat_map(space, FOUND)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(img.affine), nib.orientations.axcodes2ornt(codes)
    )
    nib.save(img.as_reoriented(turn), tmp_path / "turned.nii.gz")
    table = locate(tmp_path / "turned.nii.gz", space, threshold=0)
    pd.testing.assert_frame_equal(table, locate(img, space, threshold=0))
    for name, image in (("plain", img), ("turned", tmp_path / "turned.nii.gz")):
        plot_flatmap(image, space, cbar_label="z", output_file=tmp_path / f"{name}.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "turned.png").read_bytes()


def test_another_fingerprint_is_refused(space, tmp_path):
    path = tmp_path / "z.nii"
    nib.save(stat_map(space, FOUND, fingerprint="1" * 64), path)
    with pytest.raises(SpaceError, match=r"z\.nii has the fingerprint 1{16}.* has 2{16} or 3"):
        unit_values(path, space, fingerprint=["2" * 64, "3" * 64])
    assert unit_values(path, space, fingerprint="1" * 64).max() == 4.5
    assert unit_values(path, space, fingerprint=["2" * 64, "1" * 64]).max() == 4.5


def test_an_image_without_a_fingerprint_is_accepted_by_its_grid(space):
    assert unit_values(stat_map(space, FOUND), space, fingerprint="1" * 64).max() == 4.5


def test_a_fingerprint_that_was_not_checked_is_in_the_log(space, caplog):
    caplog.set_level(logging.INFO, logger="llm2bids")
    locate(stat_map(space, FOUND, fingerprint="1" * 64), space, threshold=1)
    assert "fingerprint 1111111111111111, which was not checked" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of threshold and top_percent, got None and None"),
        ({"threshold": 2, "top_percent": 5}, "exactly one"),
        ({"threshold": np.nan}, "threshold is nan"),
        ({"threshold": -2}, "threshold is -2; expected a finite number, from 0"),
        ({"top_percent": 0}, "top_percent is 0"),
        ({"top_percent": 101}, "top_percent is 101"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(space, options, message):
    with pytest.raises(SpaceError, match=message):
        locate(stat_map(space, FOUND), space, **options)


def test_a_negative_threshold_is_fine_in_a_one_sided_search(space):
    table = locate(stat_map(space, FOUND), space, threshold=-5, two_sided=False)
    assert len(table) == space.n_units - 1


@pytest.mark.parametrize(
    ("source", "message"),
    [("no.nii", "no.nii does not exist"), ([1, 2], "image is a list"), (None, "NoneType")],
)
def test_what_is_no_image_is_refused(space, source, message):
    with pytest.raises(SpaceError, match=message):
        unit_values(source, space)


def test_units_are_described_in_the_order_given(space):
    table = units_at(space, [80, 0, 11])
    assert table["address"].tolist() == [space.address_of(unit) for unit in (80, 0, 11)]


def test_a_planted_effect_is_found_by_nilearn_and_named_by_locate(space):
    """One unit responds; nilearn's own mask and model find it, and locate names it."""
    planted = "model.layers.1.mlp.act[23]"
    rng = np.random.default_rng(11)
    values = rng.standard_normal((96, space.n_units), dtype=np.float32)
    values = 0.3 * values - 2
    values[32:64, space.unit_of(planted)] += 0.75
    calibration = Calibration(
        mean=np.full(space.n_units, -2, dtype=np.float32),
        sd=np.full(space.n_units, 0.3, dtype=np.float32),
        prompt_ids=(),
        n_tokens=96,
    )
    volumes, _ = encode(values, space, calibration, seed=[11, 1])
    header = image_header(
        space, fingerprint=space.fingerprint(calibration), dtype="int16", n_volumes=96, t_r=0.25
    )
    img = nib.Nifti1Image(volumes.T, space.affine, header)
    events = pd.DataFrame({"onset": [8.0], "duration": [8.0], "trial_type": ["planted"]})
    model = FirstLevelModel(t_r=0.25, hrf_model=None, drift_model=None, noise_model="ols")
    model.fit(img, events)
    assert np.all(space.to_units(model.masker_.mask_img_) == 1)
    z_map = model.compute_contrast("planted")
    table = locate(z_map, space, threshold=5)
    assert table["address"].tolist() == [planted]
    assert np.unravel_index(z_map.get_fdata().argmax(), space.shape) == tuple(
        space.voxels[space.unit_of(planted)]
    )
