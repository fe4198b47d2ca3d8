"""Pages: every unit in a place of its own, a layer a page, a role at the same place."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2bids.model.units import Site
from llm2bids.report.draw.flat_layout import laid_flat
from llm2bids.report.draw.mosaic import flat_pages, pack_layout
from llm2bids.space.arrange import build_space


def space_of(widths, n_layers, head=50):
    sites = [Site(name="wte", layer=None, role="wte", width=head)]
    for layer in range(n_layers):
        heads = {"n_heads": widths[0], "head_size": 12, "width": 12 * widths[0]}
        sites.append(Site(name=f"h.{layer}.q", layer=layer, role="q", **heads))
        sites += [
            Site(name=f"h.{layer}.m{n}", layer=layer, role=f"m{n}", width=width)
            for n, width in enumerate(widths[1:])
        ]
    return build_space(sites, label="Tiny", model_name="tiny", weights_sha256="0" * 64)


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=5), st.integers(1, 5), st.integers(1, 3000)
)
def test_every_unit_has_a_place_on_the_page_of_its_layer(widths, n_layers, head):
    space = space_of(widths, n_layers, head)
    pages = flat_pages(space)
    places = np.column_stack([pages.page, pages.at])
    assert len(np.unique(places, axis=0)) == space.n_units
    assert np.all(pages.at < [pages.width, pages.height])
    taken = np.zeros((len(pages.labels), pages.height, pages.width), dtype=int)
    for piece in pages.pieces:
        rows = slice(piece.top, piece.top + piece.height)
        taken[piece.page, rows, piece.left : piece.left + piece.width] += 1
        units = space.site_slices[space.sites[piece.site].name]
        assert piece.page in pages.page[units]
    assert taken.max() == 1
    assert np.all(taken[pages.page, pages.at[:, 1], pages.at[:, 0]] == 1)
    layers = [label for label in pages.labels if label.startswith("layer ")]
    assert layers == [f"layer {n}" for n in range(n_layers)]
    for role in {site.role for site in space.sites} - {"wte"}:
        units = [space.site_slices[site.name] for site in space.sites if site.role == role]
        assert all(np.array_equal(pages.at[units[0]], pages.at[other]) for other in units)


def test_heads_stay_rectangles():
    space = space_of([6, 30], 2)
    (site,) = (site for site in space.sites if site.name == "h.1.q")
    for head in laid_flat(space, site).reshape(6, 12, 2):
        assert np.prod(np.ptp(head, axis=0) + 1) == 12


def test_the_packed_layout_names_every_unit_once():
    space = space_of([6, 30, 7], 3, head=900)
    packed = pack_layout(space)
    names = [label["label"] for label in packed["slices"]]
    assert names[-3:] == ["layer 0", "layer 1", "layer 2"]
    assert set(names[:-3]) == {"wte"}
    assert len(packed["grids"]) < len(packed["pieces"])  # layers share them
    assert {piece[0] for piece in packed["pieces"]} == set(range(len(space.sites)))
