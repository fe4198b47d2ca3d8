"""Sites and units: the addresses of everything that is recorded. No torch in this file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from llm2bids.exceptions import ModelError


@dataclass(frozen=True, kw_only=True)
class Site:
    """One hooked module output.

    Parameters
    ----------
    name : str
        Dotted module name as in ``model.named_modules()``, e.g. ``model.layers.5.mlp.down_proj``.
        A decoder layer itself (``model.layers.5``) is the residual stream after that layer.
    layer : int or None
        Index of the decoder layer, None for modules outside the layers.
    role : str
        Module path within its layer (``mlp.down_proj``), ``residual`` for the layer itself, the
        whole name for modules outside the layers.
    width : int
        Number of units.
    n_heads : int or None
        Number of attention heads that the width splits into, None without heads.
    head_size : int or None
        Units per head; ``n_heads * head_size == width``.
    token_axis : int
        Axis of the tokens in the module's output: 1 for (prompts, tokens, units), 2 for (prompts,
        heads, tokens, units), 0 where prompts and tokens are one axis. Not part of the site's
        identity: a site read back from a dataset equals the one found in the model.
    """

    name: str
    layer: int | None
    role: str
    width: int
    n_heads: int | None = None
    head_size: int | None = None
    token_axis: int = field(default=1, compare=False, repr=False)


def unit_addresses(sites: Sequence[Site]) -> list[str]:
    """List the address of every unit in recording order.

    Parameters
    ----------
    sites : sequence of Site
        Sites in recording order.

    Returns
    -------
    list of str
        Length ``n_units``, e.g. ``["model.embed_tokens[0]", ...]``.

    Examples
    --------
    >>> unit_addresses([Site(name="model.norm", layer=None, role="model.norm", width=2)])
    ['model.norm[0]', 'model.norm[1]']
    """
    return [f"{site.name}[{unit}]" for site in sites for unit in range(site.width)]


def parse_address(address: str) -> tuple[str, int]:
    """Split a unit's address into module name and index.

    Parameters
    ----------
    address : str
        E.g. ``model.layers.5.mlp.down_proj[123]``.

    Returns
    -------
    tuple of (str, int)
        Module name and index of the unit in its output.

    Raises
    ------
    ModelError
        If the text is no address.

    Examples
    --------
    >>> parse_address("model.layers.5.mlp.down_proj[123]")
    ('model.layers.5.mlp.down_proj', 123)
    """
    match = re.fullmatch(r"([^\[\]\s]+)\[(\d+)\]", address)
    if match is None:
        raise ModelError(
            f"unit address {address!r} is not of the form module.name[index]; "
            "`llm2bids sites` lists the modules"
        )
    return match[1], int(match[2])
