"""Where units lie on the flat map: each in a place of its own, beside its neighbours."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.model.sites import find_sites
from llm2bids.model.units import Site
from llm2bids.report.draw.flat_layout import flat_layout, role_groups
from llm2bids.space.arrange import build_space
from llm2bids.space.smoothness import grid_pairs


def space_of(sites):
    return build_space(sites, label="Tiny", model_name="tiny", weights_sha256="0" * 64)


def small_space(widths=(13, 30, 12, 37), n_layers=3, outer=("model.embed_tokens", "model.norm")):
    """Layers of a residual stream, two attention sites and an MLP site, between outer modules."""
    roles = ("residual", "self_attn.q_proj", "self_attn.k_proj", "mlp.act_fn")
    sites = [Site(name=name, layer=None, role=name, width=widths[0]) for name in outer[:1]]
    for layer in range(n_layers):
        for role, width in zip(roles, widths, strict=True):
            name = f"model.layers.{layer}" + ("" if role == "residual" else f".{role}")
            sites.append(Site(name=name, layer=layer, role=role, width=width))
    sites += [Site(name=name, layer=None, role=name, width=widths[0]) for name in outer[1:]]
    return space_of(sites)


def check_layout(space, layout):
    """Every unit has its own place, in one panel; panels do not touch; panels keep the space."""
    assert len(np.unique(layout.at, axis=0)) == space.n_units
    taken = np.zeros((layout.height, layout.width), dtype=int)
    for box in layout.panels:
        assert box.left >= 0
        assert box.top >= 0
        taken[box.top : box.top + box.height, box.left : box.left + box.width] += 1
    assert taken.sum() == sum(box.width * box.height for box in layout.panels)
    assert taken.max() == 1
    assert taken[layout.at[:, 1], layout.at[:, 0]].min() == 1
    first, second = grid_pairs(space)
    apart = np.abs(layout.at[first] - layout.at[second]).max(axis=1)
    depths = [np.ptp(space.voxels[units, 2]) + 1 for units in space.site_slices.values()]
    heads = np.repeat([bool(s.n_heads) for s in space.sites], [s.width for s in space.sites])
    depth = np.repeat(depths, [site.width for site in space.sites])
    # a tile of a column's voxels is turned over where its neighbour is not
    assert np.all((apart < 2 * depth[first])[~heads[first]])


@given(
    widths=st.tuples(*[st.integers(1, 60)] * 4),
    n_layers=st.integers(1, 4),
    pitch=st.integers(0, 25),
)
def test_units_have_places_of_their_own_beside_their_neighbours(widths, n_layers, pitch):
    space = small_space(widths, n_layers)
    layout = flat_layout(space, least_pitch=pitch)
    check_layout(space, layout)
    middles = [row.top + row.height / 2 for row in layout.rows]
    assert min(np.diff(middles)) >= pitch


@pytest.mark.parametrize("width", [576, 1536, 300, 48])
def test_what_touches_on_the_map_are_neighbours_in_the_space(width):
    """In a tile of 2 x 2 voxels of a column, three of four edges are steps along it."""
    space = space_of([Site(name="model.norm", layer=None, role="model.norm", width=width)])
    at = flat_layout(space).at
    unit = np.full(at.max(axis=0) + 1, -1)
    unit[tuple(at.T)] = np.arange(width)
    first = np.concatenate([unit[1:].ravel(), unit[:, 1:].ravel()])
    second = np.concatenate([unit[:-1].ravel(), unit[:, :-1].ravel()])
    both = (first >= 0) & (second >= 0)
    steps = np.abs(space.voxels[first[both]] - space.voxels[second[both]]).sum(axis=1)
    assert np.mean(steps == 1) >= 0.8


def test_the_residual_stream_is_the_midline_from_what_is_before_to_what_is_after():
    space = small_space()
    layout = flat_layout(space)
    assert [row.role for row in layout.rows] == [
        *("self_attn.q_proj", "self_attn.k_proj", "residual", "mlp.act_fn"),
    ]
    assert [row.name for row in layout.rows] == ["q_proj", "k_proj", "residual", "act_fn"]
    assert [column.label for column in layout.columns] == ["embed_tokens", "0", "1", "2", "norm"]
    row = layout.rows[layout.midline]
    stream = [name for name, site in zip(space.site_slices, space.sites, strict=True)
              if site.role in ("residual", "model.embed_tokens", "model.norm")]  # fmt: skip
    lefts = [layout.at[space.site_slices[name], 0].min() for name in stream]
    assert lefts == sorted(lefts)
    for name in stream:
        down = layout.at[space.site_slices[name], 1]
        assert row.top <= down.min() <= down.max() < row.top + row.height


def test_a_permuted_space_has_the_same_panels_and_other_places_within_them():
    space = small_space()
    rng = np.random.default_rng(3)
    order = np.arange(space.n_units)
    for units in space.site_slices.values():
        order[units] = rng.permutation(order[units])
    shuffled = replace(space, voxels=space.voxels[order], arrangement="random")
    plain, other = flat_layout(space), flat_layout(shuffled)
    assert other.panels == plain.panels
    np.testing.assert_array_equal(other.at, plain.at[order])


def test_a_module_larger_than_a_layer_is_one_panel():
    sites = [
        Site(name="model.layers.0", layer=0, role="residual", width=9),
        Site(name="lm_head", layer=None, role="lm_head", width=95),
    ]
    space = space_of(sites)
    layout = flat_layout(space)
    check_layout(space, layout)
    assert len(layout.panels) == 2
    assert [column.label for column in layout.columns] == ["0", "lm_head"]


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "mamba", "mixtral"])
def test_other_architectures(architecture, tiny_loaded):
    sites = find_sites(tiny_loaded(architecture)).sites
    space = space_of(sites)
    layout = flat_layout(space)
    check_layout(space, layout)
    roles = {site.role for site in sites if site.layer is not None}
    assert {row.role for row in layout.rows} == roles


@pytest.mark.parametrize("roles", [["a.q"], ["norm", "drop"], []])
def test_sites_without_residual_stream_or_layers(roles):
    sites = [Site(name=f"l.0.{r}", layer=0, role=r, width=5 + n) for n, r in enumerate(roles)]
    sites.append(Site(name="out.norm", layer=None, role="out.norm", width=7))
    space = space_of(sites)
    layout = flat_layout(space)
    check_layout(space, layout)
    assert layout.rows[layout.midline].role == ""
    if roles:
        assert flat_layout(space_of(sites[:-1])).midline == -1


def test_single_modules_stand_with_what_follows_them():
    gemma = [
        *("input_layernorm", "self_attn.q_proj", "self_attn.o_proj", "post_attention_layernorm"),
        *("pre_feedforward_layernorm", "mlp.act_fn", "post_feedforward_layernorm"),
    ]
    assert role_groups(gemma) == [gemma[:3], gemma[3:]]
    assert role_groups(["norm", "mixer.in_proj"]) == [["norm", "mixer.in_proj"]]
    assert role_groups(["fc1", "fc2"]) == [["fc1", "fc2"]]
    assert role_groups([]) == []
