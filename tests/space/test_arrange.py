import time

import numpy as np
import pytest
from scipy import ndimage

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.arrange import OUTSIDE_SHARE, VOXEL_SIZE, build_space
from llm2bids.space.atlas import site_atlas
from llm2bids.space.space import GREY, OUTSIDE

ANY_TOUCH = np.ones((3, 3, 3), dtype=int)


def build(sites, **options):
    options = {"label": "Tiny", "model_name": "tiny", "weights_sha256": "0" * 64, **options}
    return build_space(sites, **options)


def smollm2(scale=1):
    """Give the sites of SmolLM2-135M, or of a model that is wider by a factor."""

    def site(layer, role, width, n_heads=None):
        stem = f"model.layers.{layer}"
        heads = {"n_heads": n_heads * scale, "head_size": 64} if n_heads else {}
        name = stem if role == "residual" else f"{stem}.{role}"
        return Site(name=name, layer=layer, role=role, width=width * scale, **heads)

    outer = {"layer": None, "width": 576 * scale}
    sites = [Site(name="model.embed_tokens", role="model.embed_tokens", **outer)]
    for layer in range(30):
        sites += [
            site(layer, "residual", 576),
            site(layer, "input_layernorm", 576),
            site(layer, "self_attn.q_proj", 576, 9),
            site(layer, "self_attn.k_proj", 192, 3),
            site(layer, "self_attn.v_proj", 192, 3),
            site(layer, "self_attn.o_proj", 576),
            site(layer, "post_attention_layernorm", 576),
            site(layer, "mlp.gate_proj", 1536),
            site(layer, "mlp.up_proj", 1536),
            site(layer, "mlp.act_fn", 1536),
            site(layer, "mlp.down_proj", 576),
        ]
    return [*sites, Site(name="model.norm", role="model.norm", **outer)]


def depth_of(space, name):
    return sorted(set(space.voxels[space.site_slices[name], 2].tolist()))


def test_no_two_panels_touch_by_face_edge_or_corner(space):
    labels = site_atlas(space).labels
    pieces, n_pieces = ndimage.label(labels > 0, structure=ANY_TOUCH)
    assert n_pieces == len(space.sites)
    for number in range(1, n_pieces + 1):
        assert len(np.unique(labels[pieces == number])) == 1


def test_no_two_panels_of_the_embedded_model_touch():
    space = build(smollm2())
    pieces, n_pieces = ndimage.label(space.grey, structure=ANY_TOUCH)
    assert n_pieces == len(space.sites)
    labels = site_atlas(space).labels
    pairs = np.unique(np.stack([pieces[space.grey], labels[space.grey]]), axis=1)
    assert pairs.shape[1] == n_pieces


def test_slices_follow_depth_from_input_to_output(space):
    depths = [depth_of(space, name) for name in ("model.embed_tokens", "model.norm")]
    layers = [depth_of(space, f"model.layers.{layer}.mlp.act_fn") for layer in range(3)]
    order = [depths[0], *layers, depths[1]]
    assert [len(depth) for depth in order] == [1] * 5
    assert np.diff([depth[0] for depth in order]).tolist() == [2, 2, 2, 2]


def test_a_role_has_the_same_place_in_every_layer(space):
    for role in ("residual", "self_attn.q_proj", "self_attn.k_proj", "mlp.act_fn"):
        names = [site.name for site in space.sites if site.role == role]
        first, *others = (space.voxels[space.site_slices[name], :2] for name in names)
        assert all(np.array_equal(first, other) for other in others)


def test_roles_that_differ_between_layers_keep_their_corner():
    sites = [
        Site(name="m.0.a", layer=0, role="a", width=4),
        Site(name="m.0.b", layer=0, role="b", width=9),
        Site(name="m.1.a", layer=1, role="a", width=36),
        Site(name="m.1.c", layer=1, role="c", width=5),
        Site(name="m.2.b", layer=2, role="b", width=16),
    ]
    space = build(sites)
    corner = {
        site.name: space.voxels[space.site_slices[site.name]].min(axis=0).tolist()[:2]
        for site in sites
    }
    assert corner["m.0.a"] == corner["m.1.a"]
    assert corner["m.0.b"] == corner["m.2.b"]
    assert ndimage.label(space.grey, structure=ANY_TOUCH)[1] == len(sites)


def test_layers_that_were_left_out_have_no_slices():
    sites = [Site(name=f"m.{n}.a", layer=n, role="a", width=7) for n in (9, 2, 4)]
    space = build(sites)
    assert [depth_of(space, f"m.{n}.a")[0] for n in (2, 4, 9)] == sorted(
        set(space.voxels[:, 2].tolist())
    )
    assert np.diff(sorted(set(space.voxels[:, 2].tolist()))).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (
            ["model.decoder.embed_tokens", "model.decoder.final_layer_norm", 0, 1],
            ["model.decoder.embed_tokens", 0, 1, "model.decoder.final_layer_norm"],
        ),
        (
            ["gpt_neox.embed_in", 0, 1, "gpt_neox.final_layer_norm", "embed_out"],
            ["gpt_neox.embed_in", 0, 1, "gpt_neox.final_layer_norm", "embed_out"],
        ),
        (
            ["transformer.wte", "transformer.wpe", 0, "transformer.ln_f", "lm_head"],
            ["transformer.wte", "transformer.wpe", 0, "transformer.ln_f", "lm_head"],
        ),
        ([0, "model.norm", "model.rotary_emb"], ["model.rotary_emb", 0, "model.norm"]),
        (["first.ln", 0, 1], ["first.ln", 0, 1]),
    ],
)
def test_modules_outside_the_layers_lie_before_or_after(listed, expected):
    def site(entry):
        if isinstance(entry, int):
            return Site(name=f"layers.{entry}.a", layer=entry, role="a", width=9)
        return Site(name=entry, layer=None, role=entry, width=9)

    space = build([site(entry) for entry in listed])
    names = [site(entry).name for entry in expected]
    depths = [depth_of(space, name)[0] for name in names]
    assert depths == list(range(depths[0], depths[0] + 2 * len(depths), 2))


def test_small_modules_outside_the_layers_share_a_slice():
    sites = [
        Site(name="wte", layer=None, role="wte", width=9),
        Site(name="wpe", layer=None, role="wpe", width=9),
        Site(name="h.0.mlp", layer=0, role="mlp", width=400),
    ]
    space = build(sites)
    assert depth_of(space, "wte") == depth_of(space, "wpe")
    assert depth_of(space, "h.0.mlp")[0] == depth_of(space, "wte")[0] + 2


def test_a_vocabulary_head_goes_on_in_the_slices_above():
    layer = Site(name="h.0.mlp", layer=0, role="mlp", width=100)
    head = Site(name="lm_head", layer=None, role="lm_head", width=450)
    space = build([layer, head])
    alone = build([layer])
    assert depth_of(space, "lm_head") == [
        depth_of(space, "h.0.mlp")[0] + 2 + extra for extra in range(5)
    ]
    x, y, _ = space.brain_box
    assert (x.stop - x.start, y.stop - y.start) == tuple(
        axis.stop - axis.start for axis in alone.brain_box[:2]
    )
    assert ndimage.label(space.grey, structure=ANY_TOUCH)[1] == 2


@pytest.mark.parametrize("width", [1, 2, 7, 100, 5000])
@pytest.mark.parametrize("n_layers", [0, 1, 12])
def test_margins(width, n_layers):
    sites = [Site(name=f"m.{n}", layer=n, role="residual", width=width) for n in range(n_layers)]
    space = build([*sites, Site(name="norm", layer=None, role="norm", width=width)])
    low, high = space.voxels.min(axis=0), space.voxels.max(axis=0) + 1
    for axis, box in enumerate(space.brain_box):
        assert low[axis] - box.start >= 3
        assert box.stop - high[axis] >= 3
        assert box.start >= 2
        assert space.shape[axis] - box.stop >= 2
    share = np.mean(space.tissue == OUTSIDE)
    assert OUTSIDE_SHARE[0] <= share <= OUTSIDE_SHARE[1]


def test_the_origin_is_the_centre_of_the_brain(space):
    centre = np.array([(axis.start + axis.stop - 1) / 2 for axis in space.brain_box])
    np.testing.assert_allclose(space.affine @ [*centre, 1], [0, 0, 0, 1])
    np.testing.assert_array_equal(np.diag(space.affine), [VOXEL_SIZE] * 3 + [1])


def test_axes_of_the_fixture_differ(space):
    assert len(set(space.shape)) == 3
    assert np.count_nonzero(space.tissue == GREY) == space.n_units


def test_the_embedded_model_takes_little_white_matter():
    space = build(smollm2())
    assert space.n_units == 254_592
    assert space.grey.sum() / space.brain.sum() > 0.28
    assert space.tissue.size < 1_200_000


@pytest.mark.slow
def test_two_million_units():
    start = time.perf_counter()
    space = build(smollm2(8))
    assert time.perf_counter() - start < 10
    assert space.n_units == 2_036_736
    assert len(np.unique(space.file_index)) == space.n_units
    assert 0.25 <= np.mean(space.tissue == OUTSIDE) <= 0.7
    assert space.grey.sum() / space.brain.sum() > 0.28


@pytest.mark.parametrize(
    ("sites", "options", "message"),
    [
        ([], {}, "at least one site"),
        ([Site(name="a", layer=None, role="a", width=3)] * 2, {}, "site a is listed 2 times"),
        (
            [Site(name="a", layer=None, role="a", width=3)],
            {"label": "my-model"},
            "'my-model' is not a BIDS label.*'mymodel'",
        ),
    ],
)
def test_bad_input_is_refused(sites, options, message):
    with pytest.raises(SpaceError, match=message):
        build(sites, **options)
