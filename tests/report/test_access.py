"""The page for everybody: axe finds nothing, it fits a telephone, it prints with its colours."""

import io
import json
import sys

import numpy as np
import pytest

from tests.brought import CACHE, bring

AXE = "axe-playwright-python==0.1.8"  # axe-core 4.12.1 in a wheel
FIRST = "model.layers.1.mlp.up_proj[0]"
SCHEMES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="session")
def axe():
    """axe-core's script."""
    with pytest.MonkeyPatch.context() as patch:
        bring(patch, AXE)
    (script,) = (CACHE / AXE).glob("*/axe.min.js")
    return script.read_text(encoding="utf-8")


@pytest.fixture
def pdfium(monkeypatch):
    """A reader of PDF files."""
    bring(monkeypatch, "pypdfium2==5.15.2")
    import pypdfium2

    yield pypdfium2
    for name in [name for name in sys.modules if name.partition("_")[0] == "pypdfium2"]:
        del sys.modules[name]


def violations(browser, axe, least=20):
    """What axe says of the page as it is, details open: rule and first element of each."""
    browser.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    browser.settle()
    browser.evaluate(axe + ";0")
    found = browser.evaluate("""axe.run().then(({violations, passes}) => JSON.stringify({
        passes: passes.length,
        failed: violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 160)])}))""")
    found = json.loads(found)
    assert found["passes"] > least
    return found["failed"]


@pytest.mark.parametrize(("width", "scheme"), SCHEMES)
def test_axe_finds_nothing(browser, page, axe, width, scheme):
    browser.open(page, width=width, scheme=scheme, mobile=width < 500)
    assert violations(browser, axe) == []


def test_axe_finds_what_is_wrong(browser, page, axe):
    """The check can fail: grey on grey, and a box that scrolls without the keyboard."""
    browser.open(page, width=390, mobile=True)
    browser.evaluate("document.querySelector('.lead').style.color = '#bbb'")
    browser.evaluate("""for (const box of document.querySelectorAll('.scroll'))
        box.removeAttribute('tabindex')""")
    found = {rule for rule, *_ in violations(browser, axe)}
    assert found == {"color-contrast", "scrollable-region-focusable"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_reader_opens_searches_moves_and_prints(browser, page, pdfium, scheme):
    browser.open(page, scheme=scheme)
    type_address(browser, FIRST)
    shown = "document.getElementById('read-address').textContent"
    assert browser.evaluate(shown) == FIRST
    browser.evaluate("document.getElementById('map-all').focus()")
    browser.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    browser.settle()
    assert browser.evaluate(shown) not in ("", FIRST)
    printed = pdfium.PdfDocument(io.BytesIO(browser.print()))
    assert browser.errors == []
    texts = [sheet.get_textpage().get_text_bounded() for sheet in printed]
    (mosaics,) = (n for n, text in enumerate(texts) if "Mosaics" in text)
    for title in ("cats ±", "dogs ±"):  # with its map, not alone at the end of a sheet
        assert title in texts[mosaics]
    assert "noise_model" in "".join(texts)  # what stands in closed details is printed
    shades = np.stack([colors(sheet) for sheet in printed])
    assert (shades[:, 0] > 200).all()  # white paper, whatever the screen
    assert shades[mosaics, 1] > 0.2
    (signal,) = (n for n, text in enumerate(texts) if "Signal by layer" in text)
    assert shades[signal, 1] > 0.05  # chips of the legend, and lines


def colors(sheet):
    """Median brightness of a sheet, and the per cent of its pixels that have a hue."""
    pixels = np.asarray(sheet.render(scale=0.5).to_numpy())[..., :3].astype(int)
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    return float(np.median(pixels)), 100 * float((spread > 40).mean())


def type_address(browser, text):
    """Write into the search field."""
    browser.evaluate(
        f"(e => {{ e.value = {json.dumps(text)}; e.dispatchEvent(new Event('input')) }})"
        "(document.getElementById('map-find'))"
    )


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("model.layers.99.mlp[3]", "no module is called model.layers.99.mlp"),
        ("model.layers.1.mlp.act_fn[4000]", "model.layers.1.mlp.act_fn has units 0 to 39"),
        ("model.layers.1.mlp.act_fn", "which unit? model.layers.1.mlp.act_fn[0] to [39]"),
        ("model.layers.1.mlp.act_fn[x]", "model.layers.1.mlp.act_fn has units 0 to 39"),
        ("layers.1.mlp.up", "1 modules: model.layers.1.mlp.up_proj"),
        ("model.layers.1.mlp.act_fn[3]", ""),
        ("", ""),
    ],
)
def test_the_search_says_what_is_wrong_with_an_address(browser, page, typed, said):
    browser.open(page)
    type_address(browser, typed)
    shown = "document.getElementById('map-missing').textContent"
    assert browser.evaluate(shown) == said
    if typed.endswith("]") and said:
        browser.open(page, fragment=f"#unit={typed}")
        assert browser.evaluate(shown) == said
    assert browser.errors == []


def test_the_whole_flat_map_fits_a_telephone(browser, page):
    """In strips, each with the names of the rows; and the wide drawing on a wide page."""
    size = """[...document.querySelectorAll('.flat %s svg')].map(e => e.getBoundingClientRect())
        .filter(r => r.height > 0).map(r => [r.left, r.right])"""
    for width in (390, 1280):
        browser.open(page, width=width, mobile=width < 500)
        maps = browser.evaluate(size % ".strips") + browser.evaluate(size % ":not(.strips) >")
        assert maps
        assert all(left >= 0 and right <= width for left, right in maps)


def test_captions_stay_where_the_table_scrolls(browser, page):
    browser.open(page, width=390, mobile=True)
    moved = browser.evaluate("""(() => {
        const box = [...document.querySelectorAll('.scroll')].find(
            e => e.querySelector('caption') && e.scrollWidth > e.clientWidth + 20);
        box.scrollLeft = 20;
        const caption = box.querySelector('caption').getBoundingClientRect();
        const edge = box.getBoundingClientRect();
        return [box.scrollLeft, caption.left - edge.left, edge.right - caption.right];
    })()""")
    assert moved[0] == 20
    assert moved[1] == pytest.approx(0, abs=1)
    assert moved[2] > -1
