"""Charts, pictures and packed maps, against what they were made from."""

import io
import math

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from markupsafe import Markup

from llm2bids.report.draw.chart import Estimate, Line, interval_chart, line_chart, round_ticks
from llm2bids.report.draw.color import diverging_indices, diverging_palette, full_color
from llm2bids.report.draw.packed import quantise
from llm2bids.report.draw.png import palette_png
from llm2bids.report.draw.svg import element, figure


def test_png_is_read_back_by_another_reader():
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 255, (7, 11), dtype=np.uint8)
    palette = diverging_palette()
    image = matplotlib.image.imread(io.BytesIO(palette_png(indices, palette)), format="png")
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
    small = quantise(values)
    error = np.abs(small.values() - values)
    limit = small.limit
    assert (error <= 1.001 * (np.sqrt(np.abs(values) * limit) / 127 + limit / 127**2)).all()
    same_sign = np.sign(small.values()) * np.sign(values) >= 0
    assert same_sign.all()


def test_full_color_ignores_a_few_outliers_and_empty_maps():
    values = np.concatenate([np.linspace(-1, 1, 1001), [50.0]])
    assert 0.9 < full_color(values) < 1.1
    assert full_color(np.zeros(5)) == 1.0
    assert diverging_indices(np.zeros(5), 0.0).tolist() == [127] * 5


def test_text_and_attributes_are_escaped():
    hostile = "</text><script>alert('x')</script>"
    drawing = figure(
        [element("text", hostile, data_x=f'"{hostile}')], width=3, height=5, alt=hostile
    )
    assert isinstance(drawing, Markup)
    assert "<script" not in drawing
    assert drawing.count("&lt;script&gt;") == 4


@given(st.floats(-1e4, 1e4), st.floats(0.001, 1e4))
def test_ticks_are_round_and_inside(low, span):
    ticks = round_ticks(low, low + span)
    assert 1 <= len(ticks) <= 8
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    steps = np.diff(ticks)
    if len(steps):
        assert np.allclose(steps, steps[0])
        digits = steps[0] / 10.0 ** math.floor(math.log10(steps[0]) + 1e-9)
        assert round(digits, 6) in (1, 2, 5, 10)


def test_lines_are_parted_where_values_are_missing():
    line = Line(name="a", x=[0, 1, 2, 3], y=[1.0, 2.0, math.nan, 4.0], color="red")
    chart = line_chart([line], x_label="x", y_label="y", alt="one line")
    path = chart.partition(' d="')[2].partition('"')[0]
    assert path.count("M") == 2
    assert "nan" not in chart


def test_an_interval_that_is_missing_leaves_the_estimate():
    rows = [
        Estimate(name="tea", value=0.5, low=0.25, high=0.75, color="red"),
        Estimate(name="milk", value=0.8, low=math.nan, high=math.nan, color="blue"),
    ]
    chart = interval_chart(rows, x_label="r", alt="two rows", references={"chance": 0.1})
    assert chart.count("<circle") == 2
    assert chart.count("stroke-linecap") == 1
    assert "nan" not in chart
    assert "chance" in chart


@pytest.mark.parametrize("n_slices", [1, 2, 14, 32, 80])
def test_mosaics_are_wider_than_high(n_slices):
    from llm2bids.report.draw.mosaic import mosaic_columns

    columns = mosaic_columns(n_slices, 112, 110)
    assert 1 <= columns <= n_slices
    assert columns >= -(-n_slices // columns)
