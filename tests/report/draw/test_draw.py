"""Charts, pictures and packed maps, against what they were made from."""

import base64
import io
import math
import re

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from markupsafe import Markup

from llm2bids.report.draw.chart import Line, interval_chart, line_chart
from llm2bids.report.draw.color import diverging_indices, diverging_palette, full_color
from llm2bids.report.draw.mosaic import mosaic_columns, quantise
from llm2bids.report.draw.svg import palette_png
from llm2bids.report.section import render


def test_png_is_read_back_by_another_reader():
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 255, (7, 11), dtype=np.uint8)
    palette = diverging_palette()
    png = base64.b64decode(palette_png(indices, palette).partition(",")[2])
    image = matplotlib.image.imread(io.BytesIO(png), format="png")
    np.testing.assert_allclose(image * 255, palette[indices], atol=0.51)


def test_the_palette_is_transparent_at_zero_and_parts_signs_by_blue_and_red():
    palette = diverging_palette().astype(int)
    assert palette[127, 3] == 0
    assert (np.diff(palette[127:, 3]) > 0).all()
    assert (palette[:127, 2] > palette[:127, 0]).all()
    assert (palette[128:, 0] > palette[128:, 2]).all()


@given(arrays(np.int32, 19, elements=st.integers(-(10**9), 10**9)), st.floats(1e-6, 1e3))
def test_quantised_values_come_back_within_a_step(numbers, factor):
    values = numbers * factor
    steps, limit = quantise(values)
    back = np.sign(steps) * (steps / 127) ** 2 * limit
    error = np.abs(back - values)
    assert (error <= 1.001 * (np.sqrt(np.abs(values) * limit) / 127 + limit / 127**2)).all()
    assert (np.sign(back) * np.sign(values) >= 0).all()


def test_full_color_ignores_a_few_outliers_and_empty_maps():
    values = np.concatenate([np.linspace(-1, 1, 1001), [50.0]])
    assert 0.9 < full_color(values) < 1.1
    assert full_color(np.zeros(5)) == 1.0
    assert diverging_indices(np.zeros(5), 0.0).tolist() == [127] * 5


def test_text_and_attributes_are_escaped():
    hostile = "</text><script>alert('x')</script>"
    drawn = render("drawing.svg", content=hostile, width=3, height=5, alt=f'"{hostile}')
    assert isinstance(drawn, Markup)
    assert "<script" not in drawn
    assert drawn.count("&lt;script&gt;") == 3


def line_points(chart, color):
    """Read the path of a line back, one list of points for each of its parts."""
    path = re.search(rf'<path d="([^"]*)"[^>]*fill: none; stroke: {re.escape(color)}', chart)[1]
    numbers = [[float(n) for n in point.split()] for point in re.split("[ML]", path)[1:]]
    return path.count("M"), np.array(numbers)


def test_lines_stand_where_their_values_are_and_are_parted_where_these_are_missing():
    y = [1.0, 2.0, math.nan, 4.0, 3.5]
    line = Line([0, 1, 2, 3, 4], y, "var(--c1)")
    chart = line_chart([line], x_label="x", y_label="y", alt="one line", y_range=(0.0, 5.0))
    n_parts, points = line_points(chart, "var(--c1)")
    assert n_parts == 2
    shown = np.array([0, 1, 3, 4])
    slope, _ = np.polyfit(shown, points[:, 0], 1)
    assert slope > 0
    np.testing.assert_allclose(np.diff(points[:, 0]), slope * np.diff(shown), rtol=1e-4)
    there = np.array(y)[shown]
    down, offset = np.polyfit(there, points[:, 1], 1)
    assert down < 0
    np.testing.assert_allclose(points[:, 1], down * there + offset, atol=0.01)
    assert "nan" not in chart


def test_charts_take_their_colours_from_the_style_sheet_and_have_nothing_to_clash():
    line = Line([0, 1], [-1.0, 2.0], "var(--c0)", low=[-2, 0], high=[0, 3])
    charts = [
        line_chart([line], x_label="<x>", y_label="y", alt=alt, references={"chance": 0.5})
        for alt in ("first", "second")
    ]
    for chart in charts:
        assert not re.findall(r"#[0-9a-f]{6}", chart)
        assert "var(--c0)" in chart
        assert "font-family" not in chart
        assert "<style" not in chart
        assert "<x>" not in chart
        assert ">−2<" in chart
        assert 'class="tick"' in chart
    names = [set(re.findall(r' id="([^"]+)"', chart)) for chart in charts]
    assert names[0]
    assert not names[0] & names[1]


def test_an_interval_that_is_missing_leaves_the_estimate():
    rows = pd.DataFrame(
        [("tea", 0.5, 0.25, 0.75, "var(--c0)"), ("milk", 0.8, math.nan, math.nan, "var(--c1)")],
        columns=["name", "value", "low", "high", "color"],
    )
    chart = interval_chart(rows, x_label="r", alt="two rows")
    for name, value in (("tea", "0.50"), ("milk", "0.80")):
        assert f">{name}<" in chart
        assert f">{value}<" in chart
    _, ends = line_points(chart, "var(--c0)")
    assert ends.shape == (2, 2)
    assert ends[0, 0] < ends[1, 0]
    assert "nan" not in chart.lower()


@pytest.mark.parametrize("n_slices", [1, 2, 14, 32, 80])
def test_mosaics_are_wider_than_high(n_slices):
    columns = mosaic_columns(n_slices, 112, 110)
    assert 1 <= columns <= n_slices
    assert columns >= -(-n_slices // columns)
