"""Drawings of the page: matplotlib's figures, and pictures within drawings.

Colours are the page's style variables (``var(--ink)``): a drawing follows the page into dark mode.
"""

import base64
import io
import re
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.report.section import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sizes of type that the style sheet knows as classes, larger on small screens
TICK, LABEL = 11.0, 12.5

# matplotlib takes no style variable for a colour: each has a colour in its place
_VARIABLES = (
    "ink",
    "mute",
    "rule",
    "accent",
    "flat-panel",
    "flat-edge",
    "stream",
    *(f"c{index}" for index in range(8)),
)
_STAND_INS = {f"var(--{name})": f"#0a{index:02x}f1" for index, name in enumerate(_VARIABLES)}
_CLASSES = {f"{TICK:g}": "tick", f"{LABEL:g}": "label"}


def stand_in(color: str) -> str:
    """Give the colour that stands for a style variable in a figure, e.g. for ``"var(--ink)"``."""
    return _STAND_INS[color]


def figure_svg(figure: "Figure", *, alt: str, name: str = "") -> Markup:
    """Turn a matplotlib figure into a drawing of the page: a point is a unit, text stays text.

    With a name, other drawings can show parts of it.
    """
    from matplotlib import rc_context

    width, height = figure.get_size_inches() * 72
    written = io.StringIO()
    # the salt parts the names that drawings of one page give to clip paths and marks
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": alt, "image.composite_image": False}):
        names = ("Date", "Creator", "Format", "Type")
        figure.savefig(written, format="svg", transparent=True, metadata=dict.fromkeys(names))
    body = re.search(r"<svg[^>]*>\s*<defs>.*?</defs>(.*)</svg>", written.getvalue(), re.S)
    text = body[1] if body else ""
    text = re.sub(
        r' id="(?!p[0-9a-f]{10}"|m[0-9a-f]{10}"|C)(\w+-page)?[^"]*"',
        lambda match: f' class="{match[1]}"' if match[1] else "",
        text,
    )
    text = re.sub(r' style="image-rendering[^"]*"', "", text)  # shrunk, it would drop pixels
    text = re.sub(r" font-family: [^;]*;", "", text)
    text = re.sub(r'<text style="font-size: ([\d.]+)px;', _classed, text)
    text = (
        re.sub(r"\s*\n\s*", " ", text).replace("base64, ", "base64,").replace("xlink:href", "href")
    )
    for variable, color in _STAND_INS.items():
        text = text.replace(color, variable)
    content = Markup('<g id="{}">{}</g>').format(name, Markup(text)) if name else Markup(text)
    return render("drawing.svg", content=content, width=width, height=height, alt=alt)


def palette_png(indices: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8]) -> str:
    """Encode an image of palette indices, (height, width), as the ``data:`` address of a PNG.

    The palette is (n_colours, 4): red, green, blue, opacity. See https://www.w3.org/TR/png-3/
    """
    height, width = indices.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row starts with its filter, none
    rows[:, 1:] = indices
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette[:, :3].tobytes()),
        (b"tRNS", palette[:, 3].tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _classed(match: re.Match[str]) -> str:
    name = _CLASSES.get(match[1])
    return f'<text class="{name}" style="' if name else match[0]
