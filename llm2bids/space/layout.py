"""Where an arrangement comes from: the method and the prompts that it was learned from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm2bids.exceptions import SpaceError

ARRANGEMENTS = ("index", "functional", "random")
"""Arrangements that a space can have: native order, by responses, shuffled within each panel."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the units of a space came to their voxels, where it is not native order.

    Parameters
    ----------
    method : str
        ``components``, ``ward``, ``tsne`` or ``random``.
    prompt_ids : tuple of str
        Prompts of the localizer; maps of the same prompts are circular. Empty without localizer.
    n_tokens : int
        Tokens of the localizer.
    n_constant : int
        Units that did not vary in the localizer.
    """

    method: str
    prompt_ids: tuple[str, ...] = ()
    n_tokens: int = 0
    n_constant: int = 0

    def metadata(self) -> dict[str, Any]:
        """Say it in JSON's types."""
        return {
            "method": self.method,
            "prompt_ids": list(self.prompt_ids),
            "n_tokens": self.n_tokens,
            "n_constant": self.n_constant,
        }


def read_layout(arrangement: str, about: object) -> Layout | None:
    """Read what `Layout.metadata` wrote.

    Parameters
    ----------
    arrangement : str
        Of the space.
    about : object
        Content of the metadata's ``layout``; None in index arrangement.

    Returns
    -------
    Layout or None
        None in index arrangement.

    Raises
    ------
    SpaceError
        If the arrangement is unknown, or the two do not go together.
    """
    if arrangement not in ARRANGEMENTS:
        raise SpaceError(f"arrangement {arrangement!r}: expected one of {', '.join(ARRANGEMENTS)}")
    if about is None and arrangement == "index":
        return None
    if not isinstance(about, Mapping) or arrangement == "index":
        raise SpaceError(
            f"metadata of the space: layout is a {type(about).__name__} in {arrangement} "
            "arrangement; expected an object with the method and the prompts that it was learned "
            "from, and none in index arrangement: restore the metadata"
        )
    ids = about.get("prompt_ids")
    counts = [about.get("n_tokens"), about.get("n_constant")]
    if (
        not isinstance(about.get("method"), str)
        or not isinstance(ids, list)
        or not all(isinstance(name, str) for name in ids)
        or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in counts)
    ):
        raise SpaceError(
            f"metadata of the space: layout has {', '.join(map(str, about)) or 'nothing'}; "
            "expected method (text), prompt_ids (list of texts), n_tokens and n_constant (whole "
            "numbers): restore the metadata"
        )
    return Layout(
        method=about["method"],
        prompt_ids=tuple(ids),
        n_tokens=about["n_tokens"],
        n_constant=about["n_constant"],
    )
