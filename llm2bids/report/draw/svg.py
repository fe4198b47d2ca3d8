"""SVG elements as escaped markup.

Text and attributes are escaped, so that prompts and labels cannot become markup. Colours are the
page's style variables (``var(--ink)``): a figure follows the page into dark mode.
"""

from collections.abc import Iterable

from markupsafe import Markup, escape


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """Build one element.

    Parameters
    ----------
    name : str
        Tag.
    *content : object
        Children: markup as it is, all else as escaped text.
    **attributes : object
        Attributes; ``_`` becomes ``-``, a trailing ``_`` is dropped (``class_``), None leaves one
        out, floats are rounded to hundredths.

    Returns
    -------
    Markup
        The element.

    Examples
    --------
    >>> str(element("text", "a < b", x=1.23456, text_anchor="end", class_="tick"))
    '<text x="1.23" text-anchor="end" class="tick">a &lt; b</text>'
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in content)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inside)


def figure(content: Iterable[Markup], *, width: float, height: float, alt: str) -> Markup:
    """Put elements into a drawing that scales with the page.

    Parameters
    ----------
    content : iterable of Markup
        Elements.
    width, height : float
        Size of the drawing's own coordinates.
    alt : str
        What the figure shows, for those who do not see it.

    Returns
    -------
    Markup
        The ``svg`` element.
    """
    return element(
        "svg",
        element("title", alt),
        *content,
        viewBox=f"0 0 {_short(width)} {_short(height)}",
        role="img",
        aria_label=alt,
    )


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
