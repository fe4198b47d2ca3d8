"""The project's colour maps, measured with CIELAB and with simulated colour blindness."""

import matplotlib
import numpy as np
import pytest

from llm2bids.report.draw.color import (
    ARMS,
    N_COLORS,
    arm_colors,
    map_colors,
    oklab_to_srgb,
    register_colormaps,
)
from llm2bids.report.draw.flat_figure import PALETTES

TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # IEC 61966-2-1, D65

# Machado, Oliveira and Fernandes (2009), severity 1, on linear red, green, blue
BLINDNESS = {
    "protan": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0519]],
    "deutan": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6727, 0.0473], [-0.0118, 0.0430, 0.9689]],
    "tritan": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def cielab(linear_rgb):
    """CIE 1976 L*a*b* of linear sRGB."""
    xyz = np.clip(linear_rgb, 0, 1) @ TO_XYZ.T / TO_XYZ.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("name", ARMS)
def test_every_colour_is_one_of_srgb_and_steps_are_even(name):
    for arm in ARMS[name]:
        lab = arm_colors(arm, 97)
        steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
        assert steps.std() < 0.001 * steps.mean()
        rgb = oklab_to_srgb(lab)
        assert rgb.min() > -0.005
        assert rgb.max() < 1.005


@pytest.mark.parametrize("name", ARMS)
def test_lightness_runs_one_way_along_each_arm(name):
    lightness = cielab(linear(map_colors(name)))[:, 0]
    if len(ARMS[name]) == 1:
        arms = [lightness]
    else:
        arms = [lightness[N_COLORS // 2 :: -1], lightness[N_COLORS // 2 :]]
    for arm in arms:
        steps = np.diff(arm) * (1 if name.endswith("dark") else -1)
        assert (steps > 0).all()
        assert steps.max() < 4 * np.median(steps)
        assert abs(arm[-1] - arm[0]) > 45


@pytest.mark.parametrize("name", ["llm2bids", "llm2bids_dark"])
def test_both_signs_are_equally_light_and_differ_for_every_eye(name):
    rgb = map_colors(name)
    cold, hot = rgb[N_COLORS // 2 :: -1], rgb[N_COLORS // 2 :]
    light = [cielab(linear(arm))[:, 0] for arm in (cold, hot)]
    assert np.abs(light[0] - light[1]).max() < 7
    for simulated in ([np.eye(3)], *([matrix] for matrix in BLINDNESS.values())):
        eye = np.array(simulated[0])
        seen = [cielab(linear(arm) @ eye.T) for arm in (cold, hot)]
        apart = np.linalg.norm(seen[0] - seen[1], axis=1)
        assert apart[len(apart) // 4 :].min() > 15


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_middle_is_the_colour_of_an_empty_panel(theme):
    name = "llm2bids" if theme == "light" else "llm2bids_dark"
    panel = matplotlib.colors.to_rgb(PALETTES[theme].panel)
    np.testing.assert_allclose(map_colors(name)[N_COLORS // 2], panel, atol=0.03)


def test_matplotlib_knows_the_maps_by_name_after_one_call_and_after_two():
    names = register_colormaps()
    assert register_colormaps() == names
    assert len(names) == 2 * len(ARMS)
    for name in ARMS:
        cmap = matplotlib.colormaps[name]
        np.testing.assert_allclose(cmap([0.0, 1.0])[:, :3], map_colors(name)[[0, -1]])
        np.testing.assert_allclose(matplotlib.colormaps[f"{name}_r"](0.0), cmap(1.0))
