"""Flat maps: every unit's colour at its place, scales, files, refusals, the command, the page."""

import base64
import io
import re
from dataclasses import replace

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from llm2bids.cli.main import main
from llm2bids.dataset.read import open_dataset
from llm2bids.exceptions import SpaceError, UsageError
from llm2bids.report.draw.color import colormap
from llm2bids.report.draw.flat_figure import PALETTES, bar_ticks
from llm2bids.report.draw.flat_layout import flat_layout
from llm2bids.report.flatmap import color_scale, plot_flatmap
from llm2bids.report.networks import flat_maps_body, group_network, network_drawing
from llm2bids.report.sources import find_sources


@pytest.fixture(scope="module")
def dataset(scanned):
    return open_dataset(scanned / "dataset")


@pytest.fixture(scope="module")
def values(dataset):
    """Values that are all different, of both signs."""
    rng = np.random.default_rng(5)
    n_units = dataset.space.n_units
    return rng.permutation(np.linspace(-3.7, 4.1, n_units))


def effect_map(scanned):
    return next(
        (scanned / "analysis" / "group").glob("task-cats_*-cats_stat-effect_statmap.nii.gz")
    )


def unit_pixels(figure, number, path):
    """Read the picture back: the colour in the middle of each unit of one of its maps."""
    figure.savefig(path, dpi=figure.dpi, facecolor=figure.get_facecolor())
    picture = matplotlib.image.imread(path)[::-1, :, :3]
    axes = figure.axes[number]

    def at(places):
        x, y = np.floor(axes.transData.transform(places + 0.5)).astype(int).T
        return picture[y, x]

    return at


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_unit_has_its_colour_at_its_place_in_every_arrangement(
    dataset, values, theme, tmp_path
):
    space = dataset.space
    backwards = np.concatenate(
        [np.arange(units.stop - 1, units.start - 1, -1) for units in space.site_slices.values()]
    )
    turned = replace(space, voxels=space.voxels[backwards], arrangement="random")
    figure = plot_flatmap(values, [space, turned], vmax=4.0, threshold=1.0, theme=theme)
    cmap = colormap("llm2bids" if theme == "light" else "llm2bids_dark")
    expected = cmap((np.clip(values, -4, 4) + 4) / 8)[:, :3]
    expected[np.abs(values) <= 1.0] = to_rgb(PALETTES[theme].panel)
    for number, one in enumerate((space, turned)):
        pixels = unit_pixels(figure, number, tmp_path / "map.png")
        pitch = flat_pitch(figure, number, one)
        shown = pixels(flat_layout(one, least_pitch=pitch).at)
        np.testing.assert_allclose(shown, expected, atol=1.5 / 255)


def flat_pitch(figure, number, space):
    """Find the row pitch that a map was drawn with: the one that gives its height."""
    height = figure.axes[number].get_ylim()[0]
    return next(n for n in range(200) if flat_layout(space, least_pitch=n).height == height)


def test_an_image_and_its_values_give_the_same_picture(dataset, scanned):
    path = effect_map(scanned)
    img = nib.load(path)
    units = dataset.space.to_units(path).astype(float)
    pictures = [
        plot_flatmap(given, place).axes[0].images[0].get_array().tobytes()
        for given, place in (
            (path, dataset), (str(path), scanned / "dataset"), (img, dataset.space),
            (units, dataset), (np.asarray(img.dataobj), dataset),
        )
    ]  # fmt: skip
    assert len(set(pictures)) == 1


def test_units_that_are_nan_are_not_shown_and_infinite_ones_have_full_colour(dataset, values):
    some = values.copy()
    some[3], some[7], some[11] = np.nan, np.inf, -np.inf
    axes = plot_flatmap(some, dataset, vmax=2.0).axes[0]
    image = axes.images[0].to_rgba(axes.images[0].get_array(), bytes=True)
    pitch = flat_pitch(axes.figure, 0, dataset.space)
    x, y = flat_layout(dataset.space, least_pitch=pitch).at[[3, 7, 11]].T
    cold, hot = colormap("llm2bids")([0.0, 1.0], bytes=True)
    np.testing.assert_array_equal(image[y, x], [[0, 0, 0, 0], hot, cold])


def scale(values, **options):
    given = {"threshold": None, "cmap": None, "vmax": None, "symmetric_cbar": "auto"}
    given |= {"label": "z", "theme": "light", **options}
    return color_scale([np.array(values, dtype=float)], **given)


def test_scales_follow_the_values_unless_told():
    both = scale([-2.0, 0.5, 8.0], vmax=4.0)
    assert (both.cmap, both.vmin, both.vmax, both.bar) == ("llm2bids", -4.0, 4.0, (-4.0, 4.0))
    assert both.clipped == (False, True)
    rising = scale([0.0, 1.0, 3.0], vmax=3.0, theme="dark")
    assert (rising.cmap, rising.vmin, rising.bar) == ("llm2bids_sequential_dark", 0.0, (0.0, 3.0))
    cut = scale([-1.0, 3.0], vmax=3.0, symmetric_cbar=False)
    assert (cut.cmap, cut.vmin, cut.bar) == ("llm2bids", -3.0, (-1.0, 3.0))
    wide = scale([0.0, 3.0], vmax=3.0, symmetric_cbar=True, cmap="coolwarm")
    assert (wide.cmap, wide.bar) == ("coolwarm", (-3.0, 3.0))
    assert scale([0.0, 0.0]).bar == (0.0, 1.0)
    assert scale([np.nan]).bar == (0.0, 1.0)


def test_full_colour_is_never_hidden_by_the_threshold():
    found = scale([3.101, 3.102, -3.103, 0.0], threshold=3.1)
    assert found.vmax > 3.1


def test_ticks_name_the_ends_the_threshold_and_what_is_clipped():
    ticks = bar_ticks(scale([-2.0, 9.0], vmax=4.0, threshold=1.5))
    assert ticks == {-4.0: "−4", -1.5: "−1.5", 1.5: "1.5", 4.0: "≥ 4"}
    assert bar_ticks(scale([-2.0, 2.0], vmax=2.0)) == {-2.0: "−2", 0.0: "0", 2.0: "2"}


def text_of(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_labels_are_the_layers_and_the_roles_of_transformers(dataset, scanned):
    figure = plot_flatmap(effect_map(scanned), dataset, title="Cats", threshold=0.0, labels=["A"])
    texts = text_of(figure)
    for text in ("0", "1", "2", "layer", "residual", "self_attn", "q_proj", "mlp", "act_fn",
                 "embed_tokens", "norm", "Cats", "A", "effect (rest sd)"):  # fmt: skip
        assert text in texts
    shown = np.count_nonzero(np.nan_to_num(dataset.space.to_units(effect_map(scanned))))
    assert any(f"{shown:,} not 0" in text for text in texts)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_files_are_whole_alike_and_alone(dataset, values, ending, tmp_path):
    contents = []
    for name in ("a", "b"):
        path = tmp_path / "new" / f"{name}.{ending}"
        plot_flatmap(values, dataset, title="Cats", output_file=path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        f"a.{ending}", f"b.{ending}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -1.0}, "threshold is -1.0"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"vmax": 0.0}, "vmax is 0.0"),
        ({"vmax": 2.0, "threshold": 2.0}, "not below vmax"),
        ({"theme": "sepia"}, "light, dark"),
        ({"symmetric_cbar": "yes"}, "symmetric_cbar is 'yes'"),
        ({"cmap": "no_such"}, "cmap is 'no_such'"),
        ({"output_file": "map.jpg"}, ".png, .svg, .pdf"),
        ({"labels": ["a", "b"]}, "2 labels for 1 map"),
        ({"labels": 3}, "labels is 3; expected a list, with one for each map"),
        ({"vmax": "x"}, "vmax is 'x'; expected a finite number above 0"),
        ({"threshold": [1]}, "threshold is [1]; expected a finite number from 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(dataset, values, options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        plot_flatmap(values, dataset, **options)


def test_images_and_spaces_that_do_not_fit_are_refused(dataset, values):
    space = dataset.space
    with pytest.raises(UsageError, match="2 images and 3 spaces"):
        plot_flatmap([values, values], [space] * 3)
    with pytest.raises(UsageError, match="is a int"):
        plot_flatmap(values, 3)
    with pytest.raises(SpaceError, match="needs"):
        plot_flatmap(values[:-1], space)


def test_the_command_finds_the_dataset_and_says_where_the_picture_is(
    scanned, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    path = effect_map(scanned)
    assert main(["flatmap", str(path)]) == 0
    name = capsys.readouterr().out.strip()
    assert name == path.name.replace(".nii.gz", "_flatmap.png")
    assert matplotlib.image.imread(tmp_path / name).shape[1] >= 800
    argv = ["flatmap", str(path), "--theme", "dark", "--title", "Cats", "--threshold", "0.1"]
    assert main([*argv, "--bids-dir", str(scanned / "dataset"), "-o", "cats.svg"]) == 0
    assert PALETTES["dark"].page in (tmp_path / "cats.svg").read_text(encoding="utf-8")


def test_the_command_refuses_what_is_not_of_the_dataset(scanned, tmp_path, capsys):
    path = tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), dtype=np.float32), np.eye(4)), path)
    assert main(["flatmap", str(path), "-o", str(tmp_path / "x.png")]) == 2
    assert "--dataset BIDS_DIR" in capsys.readouterr().err
    dataset = str(scanned / "dataset")
    assert main(["flatmap", str(path), "--dataset", dataset, "-o", str(tmp_path / "x.png")]) == 1
    assert "its shape is (4, 5, 6)" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def pictures(body):
    """Decode the pictures of flat maps, which alternate between the light and the dark page."""
    found = re.findall(r'href="data:image/png;base64,([^"]+)" class="(light|dark)-page"', body)
    return [
        (theme, matplotlib.image.imread(io.BytesIO(base64.b64decode(png)), format="png"))
        for png, theme in found
    ]


def test_the_page_shows_each_network_in_the_colours_of_both_pages(scanned):
    sources = find_sources(scanned)
    maps = [one for one in sources.maps if one.is_against_off]
    body = str(flat_maps_body(sources))
    assert [theme for theme, _ in pictures(body)] == ["light", "dark"] * len(maps)
    assert body.count('role="img" aria-label="Flat map of the network of ') == len(maps) == 2
    space = sources.dataset.space
    for number, one in enumerate(maps):
        network = group_network(sources, one)
        for theme, picture in pictures(body)[2 * number : 2 * number + 2]:
            assert np.count_nonzero(picture[..., 3]) == network.n_units
            layout = next(
                layout
                for pitch in range(200)
                if (layout := flat_layout(space, least_pitch=pitch)).height == len(picture)
            )
            x, y = layout.at.T
            inside = ~np.isnan(network.values)
            np.testing.assert_array_equal(picture[y, x, 3] > 0, inside)
            cmap = colormap("llm2bids" if theme == "light" else "llm2bids_dark")
            scaled = np.clip(network.values[inside] / network.limit, -1, 1) / 2 + 0.5
            np.testing.assert_allclose(
                picture[y, x, :3][inside], cmap(scaled)[:, :3], atol=1.5 / 255
            )


def test_a_network_without_units_is_an_empty_map(scanned):
    sources = find_sources(scanned)
    space = sources.dataset.space
    one = group_network(sources, sources.maps[0])
    body = str(network_drawing(space, replace(one, values=np.full(space.n_units, np.nan)))[0])
    assert "0 units, 0 of them rise" in body
    assert not any(picture[..., 3].any() for _, picture in pictures(body))


def test_the_browser_shows_one_of_the_two_pictures(browser, page):
    look = "getComputedStyle(document.querySelector('.flat .%s-page')).display"
    for scheme, other in (("light", "dark"), ("dark", "light")):
        browser.open(page, scheme=scheme)
        assert browser.evaluate(look % scheme) == "inline"
        assert browser.evaluate(look % other) == "none"
