import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from llm2bids.exceptions import SpaceError
from llm2bids.model.units import Site
from llm2bids.space.arrange import OUTSIDE_SHARE, index_space, rearrange
from llm2bids.space.atlas import site_atlas
from llm2bids.space.definition import Layout
from llm2bids.space.functional import random_cells
from llm2bids.space.space import GREY, OUTSIDE
from tests.synthetic import build

RANDOM = {"arrangement": "random", "layout": Layout(method="random")}
ANY_TOUCH = np.ones((3, 3, 3), dtype=int)


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


WIDTHS = st.integers(1, 90)
HEADS = st.tuples(st.integers(1, 12), st.sampled_from([4, 7, 16, 24, 64]))


@st.composite
def models(draw):
    """Sites of a model of any shape: layers that differ, heads, modules outside the layers."""
    first = draw(st.sampled_from([(), ("wte",), ("wte", "wpe")]))
    sites = [Site(name=name, layer=None, role=name, width=draw(WIDTHS)) for name in first]
    roles = draw(st.lists(WIDTHS | HEADS, min_size=1, max_size=6))
    for layer in range(draw(st.integers(0, 9))):
        for number, shape in enumerate(roles):
            name = f"layers.{layer}.m{number}"
            if isinstance(shape, tuple):
                heads = {"n_heads": shape[0], "head_size": shape[1], "width": shape[0] * shape[1]}
                sites.append(Site(name=name, layer=layer, role=f"m{number}", **heads))
            elif (layer + number) % 5:
                width = 1 + (shape + layer // 4) % 90
                sites.append(Site(name=name, layer=layer, role=f"m{number}", width=width))
    widths = draw(st.lists(st.integers(1, 900), min_size=0 if sites else 1, max_size=2))
    names = [f"norm{n}" for n in range(len(widths))]
    return sites + [
        Site(name=name, layer=None, role=name, width=width)
        for name, width in zip(names, widths, strict=True)
    ]


def touching(space):
    """Count pairs of voxels of two panels that share a face, an edge or a corner."""
    labels = np.pad(space.to_grid(space.site_of_unit + 1), 1)
    n_pairs = 0
    for step in np.argwhere(ANY_TOUCH) - 1:
        other = np.roll(labels, step, axis=(0, 1, 2))
        n_pairs += np.count_nonzero((labels > 0) & (other > 0) & (labels != other))
    return n_pairs


@settings(max_examples=60)
@given(models())
def test_any_model_has_a_space(sites):
    space = build(sites)
    assert len(np.unique(space.voxels, axis=0)) == space.n_units
    assert touching(space) == 0
    for site, units in zip(space.sites, space.site_slices.values(), strict=True):
        for head in np.split(space.voxels[units], site.n_heads or 1):
            if site.n_heads:  # a head is a box that it fills
                assert np.prod(np.ptp(head, axis=0) + 1) == site.head_size
    depth = {}
    for site, units in zip(space.sites, space.site_slices.values(), strict=True):
        if site.layer is not None:
            depth.setdefault(site.layer, []).append(space.voxels[units, 2].min())
    firsts = [min(depth[layer]) for layer in sorted(depth)]
    assert firsts == sorted(firsts)
    again = index_space(rearrange(space, random_cells(space, seed=1), **RANDOM))
    np.testing.assert_array_equal(again.voxels, space.voxels)
    grey = space.grey
    for axis, n in enumerate(space.shape):
        assert np.take(grey, n // 2, axis).any()
        assert np.take(grey, (n - 1) // 2, axis).any()
    np.testing.assert_array_equal(space.affine @ [*(n // 2 for n in space.shape), 1], [0, 0, 0, 1])
    low, high = space.voxels.min(axis=0), space.voxels.max(axis=0) + 1
    for axis, box in enumerate(space.brain_box):
        assert low[axis] - box.start >= 2
        assert box.stop - high[axis] >= 2
        assert box.start >= 2
        assert space.shape[axis] - box.stop >= 2
    assert OUTSIDE_SHARE[0] <= np.mean(space.tissue == OUTSIDE) <= 0.8


def test_a_layer_is_a_slab(space):
    names = ["model.embed_tokens", *(f"model.layers.{n}.mlp.act_fn" for n in range(3))]
    depths = [depth_of(space, name) for name in [*names, "model.norm"]]
    for below, above in itertools.pairwise(depths):
        assert above[0] - below[-1] >= 2
    assert len({len(depth) for depth in depths[1:4]}) == 1


def test_narrow_layers_stand_side_by_side():
    """One layer in a slab of two slices would be a tower, four times as high as wide."""
    sites = [Site(name=f"m.{n}", layer=n, role="residual", width=576) for n in range(30)]
    space = build(sites)
    assert space.n_units / np.prod(space.shape) >= 0.28
    assert max(space.shape) <= 2.5 * min(space.shape)
    first = [space.voxels[space.site_slices[f"m.{n}"]].min(axis=0) for n in range(30)]
    depths = np.array([corner[2] for corner in first])
    assert depths[0] == depths[1] < depths[2] == depths[3]
    assert {tuple(corner[:2]) for corner in first[::2]} == {tuple(first[0][:2])}


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


def test_layers_that_were_left_out_have_no_slabs():
    sites = [Site(name=f"m.{n}.a", layer=n, role="a", width=700) for n in (9, 2, 4)]
    space = build(sites)
    depths = [depth_of(space, f"m.{n}.a") for n in (2, 4, 9)]
    assert np.diff([depth[0] for depth in depths]).tolist() == [len(depths[0]) + 1] * 2


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
    assert depths == sorted(depths)
    assert len({names[0], names[-1]}) == 2
    inside = [depth for depth, entry in zip(depths, expected, strict=True) if entry in (0, 1)]
    outside = [depth for depth, entry in zip(depths, expected, strict=True) if entry not in (0, 1)]
    assert not set(inside) & set(outside)


def test_small_modules_outside_the_layers_share_a_slab():
    sites = [
        Site(name="wte", layer=None, role="wte", width=9),
        Site(name="wpe", layer=None, role="wpe", width=9),
        Site(name="h.0.mlp", layer=0, role="mlp", width=400),
    ]
    space = build(sites)
    assert depth_of(space, "wte") == depth_of(space, "wpe")
    assert depth_of(space, "h.0.mlp")[0] == depth_of(space, "wte")[-1] + 2


def test_a_vocabulary_head_has_a_slab_as_thick_as_it_needs():
    layers = [Site(name=f"h.{n}.mlp", layer=n, role="mlp", width=100) for n in range(4)]
    head = Site(name="lm_head", layer=None, role="lm_head", width=9000)
    space, alone = build([*layers, head]), build(layers)
    depth = depth_of(space, "lm_head")
    assert depth == list(range(depth[0], depth[0] + len(depth)))
    assert depth[0] == depth_of(space, "h.3.mlp")[-1] + 2
    assert len(depth) > 8
    assert touching(space) == 0
    assert len(depth_of(alone, "h.3.mlp")) <= 8


def test_axes_of_the_fixture_differ(space):
    assert len(set(space.shape)) == 3
    assert np.count_nonzero(space.tissue == GREY) == space.n_units


def test_the_embedded_model_takes_little_white_matter():
    space = build(smollm2())
    assert space.n_units == 254_592
    assert space.n_units / np.prod(space.shape) >= 0.40
    assert max(space.shape) <= 2.5 * min(space.shape)
    assert touching(space) == 0


@pytest.mark.slow
def test_thirty_million_units():
    sites = [
        Site(name=f"m.{layer}.{role}", layer=layer, role=role, width=width)
        for layer in range(126)
        for role, width in {"q": 16384, "o": 16384, "up": 53248, "gate": 53248, "act": 53248,
                            "down": 16384, "residual": 16384, "ln": 16384}.items()
    ]  # fmt: skip
    space = build(sites)
    assert space.n_units > 30_000_000
    assert space.n_units / np.prod(space.shape) > 0.5
    assert max(space.shape) <= 2.5 * min(space.shape)


def test_a_label_that_is_none_is_refused():
    with pytest.raises(SpaceError, match=r"'my-model' is not a BIDS label.*'mymodel'"):
        build([], label="my-model")
