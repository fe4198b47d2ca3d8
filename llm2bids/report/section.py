"""Sections of the page, the templates that they fill, and how numbers are written."""

import base64
import gzip
import hashlib
import importlib.resources
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from llm2bids import __version__
from llm2bids.store.commit import replace_text


class Section(NamedTuple):
    """One section of the page; `name` is its anchor."""

    name: str
    title: str
    body: Markup


def render(template: str, **context: Any) -> Markup:
    """Fill a file of ``templates``; what is not markup already is escaped."""
    return Markup(_environment().get_template(template).render(**context))


def write_text(template: str, **context: Any) -> str:
    """Fill a file of ``templates`` with plain text, as one paragraph."""
    filled = _environment().get_template(template).render(**context)
    return re.sub(r"[ \n]+", " ", filled).strip()


def missing(what: str, *commands: str) -> Markup:
    """Say in one sentence what is left out, and with which commands it is made."""
    return render("missing.html", what=what, command=" && ".join(commands))


def read_asset(name: str, folder: str = "templates") -> str:
    """Read the style sheet, a script or a text that goes into the page."""
    files = importlib.resources.files("llm2bids.report")
    return (files / folder / name).read_text(encoding="utf-8")


def scroll(label: str) -> Markup:
    """Open a box that scrolls sideways where it is too narrow, with the keyboard too.

    >>> str(scroll("p < 0.05"))
    '<div class="scroll" tabindex="0" role="region" aria-label="p &lt; 0.05">'
    """
    opened = Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">')
    return opened.format(label)


def page_script(*names: str) -> str:
    """Join scripts of ``templates`` into one function of their own."""
    parts = [read_asset(name) for name in names]
    return "\n".join(['(async () => {\n"use strict";', *parts, "})();"])


def write_page(
    path: Path,
    template: str,
    *,
    scripts: Sequence[str],
    styles: Sequence[str] = ("style.css",),
    **context: Any,
) -> None:
    """Fill and write a page; its security policy allows these scripts alone, and no address."""
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    text = render(
        template,
        scripts=[Markup(script) for script in scripts],
        hashes=Markup(hashes),
        style=Markup("".join(map(read_asset, styles))),
        version=__version__,
        **context,
    )
    replace_text(path, text)


def script_json(data: object) -> Markup:
    r"""Write JSON that cannot end the script element that it stands in.

    >>> str(script_json({"a": "</script>"}))
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def encoded(data: bytes) -> str:
    """Write bytes as gzip in base64, as a page's script inflates them."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def listed(names: Sequence[str]) -> str:
    """Join names for a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *first, last = names or ("none",)
    return f"{', '.join(first)} and {last}" if first else last


def counted(n: int, name: str) -> str:
    """Say a number of things.

    >>> counted(1, "task"), counted(2880, "volume")
    ('1 task', '2,880 volumes')
    """
    return f"{n:,} {name}{'' if n == 1 else 's'}"


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Write a number with a true minus sign and never as minus zero; empty for NaN and None.

    >>> number(-0.004), number(-1.5, 1), number(0.25, signed=True), number(12730, 0)
    ('0.00', '−1.5', '+0.25', '12,730')
    """
    if value is None or not math.isfinite(value):
        return ""
    return f"{float(value):{'+' if signed else '-'}z,.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Write an interval; empty where there is none.

    >>> interval(-0.09, -0.001), interval(None, 1.0)
    ('−0.09 to 0.00', '')
    """
    if low is None or high is None or not math.isfinite(low + high):
        return ""
    return f"{number(low, digits)} to {number(high, digits)}"


def percent(share: float, digits: int = 0) -> str:
    r"""Write a share as per cent.

    >>> percent(0.7008), percent(0.0005, 2)
    ('70\xa0%', '0.05\xa0%')
    """
    return f"{number(100 * share, digits)}\N{NO-BREAK SPACE}%"


def px(value: float) -> str:
    """Write a length in a drawing, to hundredths.

    >>> px(1.23456), px(3.0), px(7)
    ('1.23', '3', '7')
    """
    return f"{value:.2f}".rstrip("0").rstrip(".")


def heat_table(
    table: pd.DataFrame,
    *,
    caption: str,
    limit: float = 1.0,
    digits: int = 2,
    titles: Sequence[Sequence[str]] | None = None,
    color: str = "",
    of_size: bool = False,
) -> Markup:
    """Write a matrix as a table with coloured cells: for eye and ear.

    NaN leaves a cell empty, a value at or below 0 has no colour, one at `limit` full colour.
    `titles` are tool tips. With `of_size` negative values have the colour of their size.
    """
    values = table.to_numpy(dtype=np.float64)
    strengths = np.clip(np.nan_to_num(np.abs(values) if of_size else values) / (limit or 1), 0, 1)
    texts = [[number(value, digits) for value in line] for line in values.tolist()]
    tips = titles or [[""] * table.shape[1]] * len(table)
    rows = [
        (name, zip(*cells, strict=True))
        for name, *cells in zip(table.index, texts, strengths.tolist(), tips, strict=True)
    ]
    return render("heat.html", caption=caption, columns=list(table), rows=rows, color=color)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llm2bids.report"),
        autoescape=jinja2.select_autoescape(["html", "svg"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        function.__name__: function for function in (listed, counted, number, percent, px)
    }
    environment.globals |= {"interval": interval, "scroll": scroll}
    return environment
