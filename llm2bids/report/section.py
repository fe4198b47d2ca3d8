"""Sections of the page, and the templates that they fill."""

import base64
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of the page.

    Parameters
    ----------
    name : str
        Anchor.
    title : str
        Heading.
    body : Markup
        Contents.
    """

    name: str
    title: str
    body: Markup


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A part that is left out.

    Parameters
    ----------
    what : str
        One sentence that says what is not there.
    command : str
        The command that makes it; empty where none does.
    """

    what: str
    command: str = ""


def render(template: str, **context: Any) -> Markup:
    """Fill a template; everything that is not markup already is escaped.

    Parameters
    ----------
    template : str
        File in ``templates``.
    **context : object
        Its variables; one that is missing is an error.

    Returns
    -------
    Markup
        The filled template.
    """
    return Markup(_environment().get_template(template).render(**context))


def missing(*parts: Missing) -> Markup:
    """Say which parts are left out, and which commands make them.

    Parameters
    ----------
    *parts : Missing
        The parts.

    Returns
    -------
    Markup
        One paragraph for each.
    """
    return render("missing.html", parts=parts)


def read_asset(name: str) -> str:
    """Read the style sheet or script that goes into the page.

    Parameters
    ----------
    name : str
        File in ``templates``.

    Returns
    -------
    str
        Its text.
    """
    folder = importlib.resources.files("llm2bids.report") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def packed(array: Any) -> str:
    """Encode an array's bytes (little-endian) for the page.

    Parameters
    ----------
    array : ndarray
        Any array.

    Returns
    -------
    str
        Base64.
    """
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(little.tobytes()).decode()


def listed(names: Sequence[str]) -> str:
    """Join names for a sentence.

    Parameters
    ----------
    names : sequence of str
        The names.

    Returns
    -------
    str
        ``"a, b and c"``.

    Examples
    --------
    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *first, last = names or ("none",)
    return f"{', '.join(first)} and {last}" if first else last


def counted(number: int, name: str) -> str:
    """Say a number of things.

    Parameters
    ----------
    number : int
        How many.
    name : str
        One of them.

    Returns
    -------
    str
        With an ``s`` where there are several.

    Examples
    --------
    >>> counted(1, "task"), counted(2880, "volume")
    ('1 task', '2,880 volumes')
    """
    return f"{number:,} {name}{'' if number == 1 else 's'}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llm2bids.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"listed": listed, "counted": counted}
    return environment
