"""The page in headless Chromium: no errors, no requests, and the pointer names the right unit."""

import itertools
import shutil

import numpy as np
import pytest

from llm2bids.dataset.read import open_dataset
from llm2bids.report.design import designs_body
from llm2bids.report.draw.color import full_color
from llm2bids.report.draw.mosaic import flat_pages, quantise
from llm2bids.report.page import write_report
from llm2bids.report.section import read_asset
from llm2bids.report.sources import find_sources

SIZES = [(1280, "light"), (1280, "dark"), (390, "light")]


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_loads_without_errors_or_requests_and_fits_the_window(browser, page, width, scheme):
    browser.open(page, width=width, scheme=scheme, mobile=width < 500)

    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.evaluate("document.documentElement.dataset.map") == "ready"
    assert browser.evaluate("document.documentElement.scrollWidth") == width


def test_light_and_dark_differ(browser, page):
    colors = []
    for scheme in ("light", "dark"):
        browser.open(page, scheme=scheme)
        colors.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(int, color[4:-1].split(","))) for color in colors)
    assert light > 650 > 120 > dark


def test_prompts_are_text_and_run_nothing(browser, page):
    browser.open(page)
    assert browser.evaluate("document.title") == "tiny-llama, scanned"
    assert (
        browser.evaluate("document.querySelectorAll('main img, main script:not([type])').length")
        == 0
    )
    assert "<script>document.title='hacked'</script>" in browser.evaluate(
        "document.body.textContent"
    )


def test_every_figure_has_a_text_for_those_who_do_not_see_it(browser, page):
    browser.open(page)
    without = """[...document.querySelectorAll('svg, canvas:not([aria-hidden]), img')]
        .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('alt'))).length"""
    assert browser.evaluate("document.querySelectorAll('svg').length") > 8
    assert browser.evaluate(without) == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_of_columns_are_not_cut_off(browser, scanned, tmp_path, width):
    shutil.copytree(scanned / "analysis", tmp_path / "analysis")
    for path in (tmp_path / "analysis").rglob("sub-01_*_design.tsv"):
        head, rows = path.read_text().split("\n", 1)
        path.write_text(head.replace("constant", "politicalsciencewoman") + "\n" + rows)
    body = designs_body(find_sources(tmp_path / "analysis", bids_dir=scanned / "dataset"))
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><meta name='viewport' content='width=device-width'>"
        f"<style>{read_asset('style.css')}</style><main>{body}</main>"
    )
    browser.open(page, width=width, mobile=width < 500)
    names = browser.evaluate("""[...document.querySelectorAll('.designs svg')].flatMap(svg => {
        const all = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].map(text => {
            const box = text.getBoundingClientRect();
            return [text.textContent, box.left >= all.left && box.right <= all.right
                && box.top >= all.top && box.bottom <= all.bottom];
        });
    })""")
    assert "politicalsciencewoman" in dict(names)
    assert all(inside for _, inside in names)


UNITS = (
    "model.layers.1.self_attn.q_proj[17]",
    "model.layers.2.mlp.act_fn[39]",
    "model.layers.0[3]",
    "model.embed_tokens[5]",
)


@pytest.mark.parametrize("address", UNITS)
@pytest.mark.parametrize("width", [1280, 390])
def test_the_address_in_the_hash_is_shown_with_layer_role_head_and_value(
    browser, page, scanned, address, width
):
    browser.open(page, width=width, fragment=f"#unit={address}")
    check_readout(browser, scanned, address)


def test_the_pointer_names_the_unit_under_it(browser, page, scanned):
    """Point all over the map of all layers: where each unit lies, and with which colour."""
    browser.open(page)
    found = sweep(browser, "map-all")
    assert len(found) > 100
    check_places(scanned, found)
    check_colors(scanned, found)
    one = found[len(found) // 2]
    browser.point(*to_window(browser, "map-all", one))
    browser.settle()
    check_readout(browser, scanned, one["address"])


def test_a_click_holds_the_unit_and_shows_its_layer(browser, page, scanned):
    browser.open(page)
    found = next(one for one in sweep(browser, "map-all") if ".1.mlp.up_proj" in one["address"])
    browser.point(*to_window(browser, "map-all", found), click=True)
    browser.settle()
    assert browser.evaluate("document.getElementById('map-slice').textContent") == "layer 1"
    assert browser.evaluate("decodeURIComponent(location.hash)") == f"#unit={found['address']}"
    inside = sweep(browser, "map-one")
    assert len(inside) > 100
    assert {one["address"].split(".")[2].partition("[")[0] for one in inside} == {"1"}
    check_colors(scanned, inside)
    browser.point(2, 2)
    browser.settle()
    check_readout(browser, scanned, found["address"])


def test_keys_move_the_held_unit(browser, page, scanned):
    browser.open(page, fragment="#unit=model.layers.1.mlp.up_proj[0]")
    browser.evaluate("document.getElementById('map-one').focus()")
    for key in ("ArrowRight", "ArrowDown"):
        browser.send("Input.dispatchKeyEvent", type="keyDown", key=key)
    shown = browser.evaluate("document.getElementById('read-address').textContent")
    space = open_dataset(scanned / "dataset").space
    pages = flat_pages(space)
    step = pages.at[space.unit_of(shown)] - pages.at[space.unit_of("model.layers.1.mlp.up_proj[0]")]
    assert step.tolist() == [1, 1]


def test_choosing_another_map_changes_value_and_scale(browser, page, scanned):
    browser.open(page, fragment=f"#unit={UNITS[0]}")
    values = []
    for choice in (0, 1):
        browser.evaluate(
            f"(e => {{ e.value = {choice}; e.dispatchEvent(new Event('change')) }})"
            "(document.getElementById('map-choice'))"
        )
        values.append(browser.evaluate("document.getElementById('read-value').textContent"))
    assert values[0] != values[1]
    assert browser.errors == []


SWEEP = """(() => {
  const canvas = document.getElementById('%s'), read = document.getElementById('read-address');
  canvas.scrollIntoView({block: 'center'});
  const box = canvas.getBoundingClientRect(), context = canvas.getContext('2d'), found = [];
  for (let row = 0; row < 60; row += 1) for (let column = 0; column < 60; column += 1) {
    const x = box.width * (column + 0.5) / 60, y = box.height * (row + 0.5) / 60;
    read.textContent = 'nothing';
    canvas.dispatchEvent(new PointerEvent('pointermove',
      {clientX: box.left + x, clientY: box.top + y}));
    const pixel = context.getImageData(x / box.width * canvas.width,
      y / box.height * canvas.height, 1, 1).data;
    const address = read.textContent;
    if (address !== 'nothing') found.push({x, y, address, color: [...pixel]});
  }
  return found;
})()"""


def sweep(browser, canvas):
    """Point at a raster of places: those over a unit, with the address read and the colour."""
    browser.settle()
    return browser.evaluate(SWEEP % canvas)


def to_window(browser, canvas, place):
    """Give the place in the window of a place in a canvas, scrolled into view."""
    browser.evaluate(f"document.getElementById('{canvas}').scrollIntoView({{block: 'center'}})")
    left, top = browser.evaluate(
        f"(({{x, y}}) => [x, y])(document.getElementById('{canvas}').getBoundingClientRect())"
    )
    return left + place["x"], top + place["y"]


def check_places(scanned, found):
    """Units of one page lie in the canvas as they lie on the page."""
    space = open_dataset(scanned / "dataset").space
    pages = flat_pages(space)
    units = [space.unit_of(one["address"]) for one in found]
    places = [(*pages.at[unit], pages.page[unit]) for unit in units]
    scales = {"x": [], "y": []}
    for (one, at), (other, there) in itertools.combinations(zip(found, places, strict=True), 2):
        step = np.subtract(there, at)
        for axis, name in enumerate("xy"):
            if step[2] == 0 and abs(step[axis]) > 12:
                scales[name].append((other[name] - one[name]) / step[axis])
    for name in "xy":
        assert len(scales[name]) > 20
        assert max(scales[name]) - min(scales[name]) < 0.2 * np.mean(scales[name])
    assert np.mean(scales["x"]) == pytest.approx(np.mean(scales["y"]), rel=0.05)


def check_colors(scanned, found):
    """Where the page names a unit, it has drawn that unit's value."""
    sources = find_sources(scanned)
    values = sources.unit_map(sources.maps[0].path)
    limit = full_color(values)
    agree = []
    for one in found:
        value = values[sources.dataset.space.unit_of(one["address"])]
        if abs(value) > 0.6 * limit:
            red, _, blue, _ = one["color"]
            agree.append((red > blue) == (value > 0))
    assert len(agree) > 5
    assert np.mean(agree) > 0.8  # the rest are places on the border of a panel


def check_readout(browser, scanned, address):
    """Everything that the readout says is what dataset and group map say."""
    sources = find_sources(scanned)
    space = sources.dataset.space
    unit = space.unit_of(address)
    row = space.unit_table().iloc[unit]
    steps, limit = quantise(sources.unit_map(sources.maps[0].path))
    value = np.sign(steps[unit]) * (steps[unit] / 127) ** 2 * limit
    said = {
        name: browser.evaluate(f"document.getElementById('read-{name}').textContent")
        for name in ("address", "layer", "role", "head", "unit", "value")
    }
    assert said == {
        "address": address,
        "layer": "–" if str(row["layer"]) == "<NA>" else str(row["layer"]),
        "role": row["role"],
        "head": "–" if str(row["head"]) == "<NA>" else str(row["head"]),
        "unit": str(row["unit"]),
        "value": f"{'−' if value < 0 else '+'}{abs(value):.2f} rest sd",
    }


def test_units_outside_the_mask_have_no_value_and_no_rank(browser, masked, tmp_path):
    analysis, inside = masked
    page = write_report(analysis, output=tmp_path / "masked.html", progress=False)
    sources = find_sources(analysis)
    values = sources.unit_map(sources.maps[0].path)
    np.testing.assert_array_equal(np.isfinite(values), inside)
    text = page.read_text(encoding="utf-8")
    assert f"{np.count_nonzero(~inside):,} units lie outside the mask" in text
    space = sources.dataset.space
    strength = np.argsort(-np.abs(np.nan_to_num(values)))
    middle = strength[np.count_nonzero(inside) // 2]
    shown = {}
    for unit in (int(np.flatnonzero(~inside)[0]), int(strength[0]), int(middle)):
        browser.open(page, fragment=f"#unit={space.address_of(unit)}")
        browser.settle()
        assert browser.errors == []
        shown[unit] = [
            browser.evaluate(f"document.getElementById('read-{name}').textContent")
            for name in ("address", "value", "rank")
        ]
    outside, strongest, median = shown.values()
    assert outside == [space.address_of(int(np.flatnonzero(~inside)[0])), "outside the mask", "–"]
    assert strongest[2].startswith("top 0.")
    assert median[2] in {f"top {share} %" for share in (48, 49, 50, 51, 52)}
