"""A map in NiiVue: every unit under pointer and crosshair is named, with the value of the map."""

import base64
import gzip
import json
import re
import time

import nibabel as nib
import numpy as np
import pytest

from llm2bids import open_dataset, view
from llm2bids.cli.main import main
from llm2bids.exceptions import SpaceError, UsageError
from llm2bids.report.sources import find_sources
from tests.report.browser import Browser, find_chromium
from tests.report.test_access import axe, violations  # noqa: F401

SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture(scope="module")
def viewer():
    """A Chromium that draws WebGL2 without a graphics card."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine: install it (Debian: apt install chromium)")
    with Browser(executable, *SOFTWARE_GL) as opened:
        opened.send("Page.navigate", url="about:blank")
        webgl = "Boolean(document.createElement('canvas').getContext('webgl2'))"
        if not opened.evaluate(webgl):
            pytest.skip("this Chromium draws no WebGL2, not even in software")
        yield opened


@pytest.fixture(scope="module")
def shown(scanned, tmp_path_factory):
    """The page of a map, the map's values and the space."""
    sources = find_sources(scanned)
    image = sources.maps[0].path
    output = tmp_path_factory.mktemp("view") / "map.html"
    assert view(image, scanned / "dataset", output_file=output) == output
    return output, sources.unit_map(image), sources.dataset.space


def open_page(browser, page, **options):
    browser.open(page, **options)
    end = time.monotonic() + 60
    while browser.evaluate("document.documentElement.dataset.view") != "ready":
        assert not browser.errors
        assert time.monotonic() < end
    browser.settle()


def read(browser, name):
    return browser.evaluate(f"document.getElementById('{name}').textContent")


def check(text, values, space):
    """What the page says of a unit is what the map says."""
    address, number = re.match(r"(\S+\]) +(\S+) ", text).groups()
    value = float(number.replace("−", "-"))
    assert value == pytest.approx(values[space.unit_of(address)], rel=0.006, abs=1e-9)
    return address


def test_anatomy_and_map_are_the_images_of_the_dataset(shown, scanned):
    page, values, space = shown
    data = json.loads(re.search(r'id="view-data">(.*?)</script>', page.read_text("utf-8"), re.S)[1])
    anatomy, image = (
        nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data[name])))
        for name in ("anatomy", "map")
    )
    (written,) = (scanned / "dataset").rglob("tpl-*_T1w.nii.gz")
    np.testing.assert_array_equal(anatomy.get_fdata(), nib.load(written).get_fdata())
    assert len(np.unique(anatomy.dataobj)) > 50
    np.testing.assert_array_equal(space.to_units(image), values)
    assert np.count_nonzero(image.dataobj) == np.count_nonzero(values)


def test_shows_the_strongest_unit_first_without_errors_or_requests(viewer, shown):
    page, values, space = shown
    open_page(viewer, page)
    assert viewer.errors == []
    outside = [url for url in viewer.requests if not url.startswith(("data:", "blob:"))]
    assert outside == [page.as_uri()]
    strongest = int(np.abs(np.nan_to_num(values)).argmax())
    assert check(read(viewer, "held"), values, space) == space.address_of(strongest)


def test_pointer_and_click_name_the_unit_with_its_value(viewer, shown):
    page, values, space = shown
    open_page(viewer, page)
    box = "(r => [r.left, r.top, r.width, r.height])"
    left, top, width, height = viewer.evaluate(
        f"{box}(document.getElementById('view').getBoundingClientRect())"
    )
    named = {}
    for x in np.linspace(0.05, 0.95, 14):
        for y in np.linspace(0.05, 0.95, 12):
            at = (round(left + x * width), round(top + y * height))
            viewer.point(*at)
            text = read(viewer, "under")
            if "]" in text:
                named[check(text, values, space)] = at
    assert len(named) > 20
    assert len({address.split("[")[0] for address in named}) > 5
    held = set()
    for at in list(named.values())[::9]:
        viewer.point(*at)
        address = read(viewer, "under")  # not always the same: a click moves the other slices
        viewer.point(*at, click=True)
        viewer.settle()
        assert read(viewer, "held") == address
        held.add(address)
    assert len(held) > 3
    assert viewer.errors == []


def test_an_address_moves_the_crosshair_and_switches_work(viewer, shown):
    page, values, space = shown
    open_page(viewer, page, width=390, scheme="dark", mobile=True)
    typed = """(e => { e.value = '%s'; e.dispatchEvent(new Event('input')) })
        (document.getElementById('find'))"""
    viewer.evaluate(typed % "model.layers.1.mlp.act_fn[7]")
    assert check(read(viewer, "held"), values, space) == "model.layers.1.mlp.act_fn[7]"
    viewer.evaluate(typed % "model.layers.1.mlp.act_fn[777]")
    assert read(viewer, "no-unit") == "model.layers.1.mlp.act_fn has units 0 to 39"
    for name in ("atlas", "solid"):
        viewer.evaluate(f"document.getElementById('{name}').click()")
    viewer.settle()
    assert viewer.errors == []
    assert viewer.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_page(viewer, shown, axe, scheme):  # noqa: F811
    open_page(viewer, shown[0], scheme=scheme)
    assert violations(viewer, axe, least=10) == []


def test_the_command_writes_the_page_and_says_where(scanned, tmp_path, capsys):
    image = find_sources(scanned).maps[0].path
    output = tmp_path / "page.html"
    argv = ["view", str(image), "--dataset", str(scanned / "dataset"), "-o", str(output)]
    assert main([*argv, "--title", "Cats & <dogs>"]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    text = output.read_text(encoding="utf-8")
    assert "<title>Cats &amp; &lt;dogs&gt;</title>" in text


def test_an_image_on_another_grid_is_refused(scanned, tmp_path):
    space = open_dataset(scanned / "dataset").space
    image = nib.Nifti1Image(np.zeros((3, 4, 5), dtype=np.float32), space.affine)
    with pytest.raises(SpaceError, match="shape"):
        view(image, scanned / "dataset", output_file=tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("vmax", [0, -1.5, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(scanned, tmp_path, vmax):
    space = open_dataset(scanned / "dataset").space
    with pytest.raises(UsageError, match=r"vmax is .*; expected a finite number"):
        view(np.ones(space.n_units), space, output_file=tmp_path / "a.html", vmax=vmax)
    assert not list(tmp_path.iterdir())


def test_an_array_in_a_space_needs_no_dataset(scanned, tmp_path):
    space = open_dataset(scanned / "dataset").space
    page = view(np.arange(space.n_units), space, output_file=tmp_path / "page.html", title="ranks")
    assert "<title>ranks</title>" in page.read_text(encoding="utf-8")


def test_the_report_opens_each_group_map_in_niivue(viewer, scanned, tmp_path):
    page = tmp_path / "report.html"
    assert main(["report", str(scanned), "-o", str(page), "--niivue", "-q"]) == 0
    assert {path.name for path in (tmp_path / "report_niivue").iterdir()} == {
        "cats.html",
        "dogs.html",
    }
    viewer.open(page)
    button = "document.getElementById('map-view')"
    assert viewer.evaluate(f"{button}.hidden") is False
    address = viewer.evaluate(f"{button}.getAttribute('href')")
    assert address == "report_niivue/cats.html"
    open_page(viewer, tmp_path / address)
    sources = find_sources(scanned)
    values = sources.unit_map(sources.maps[0].other("z"))
    check(read(viewer, "held"), values, sources.dataset.space)
    assert viewer.errors == []
