"""Sites and units: the addresses of everything that is recorded. No torch in this file."""

import re
from dataclasses import dataclass, field, fields

from llm2bids.exceptions import ModelError


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A router's scores of its experts, and what the model makes of them: what is recorded."""

    index: int  # among the tensors that the module returns
    function: str  # softmax, sigmoid or sqrtsoftplus, of each token's scores


@dataclass(frozen=True, kw_only=True)
class Site:
    """One hooked module output; a decoder layer itself is the residual stream after that layer."""

    name: str  # as in model.named_modules(), e.g. model.layers.5.mlp.down_proj
    layer: int | None  # None outside the decoder layers
    role: str  # module path within its layer; "residual" for a layer; the whole name outside
    width: int
    n_heads: int | None = None
    head_size: int | None = None  # n_heads * head_size == width
    # Axes of the output, found by the probe: (prompts, tokens, units) is 0 and 1, (prompts, heads,
    # tokens, units) 0 and 2; where both are 0, prompts and tokens are one axis. No part of the
    # site's identity: a site read back from a dataset equals the one of the model.
    token_axis: int = field(default=1, compare=False, repr=False)
    prompt_axis: int = field(default=0, compare=False, repr=False)
    scores: Scores | None = field(default=None, compare=False, repr=False)

    def identity(self) -> dict[str, str | int | None]:
        """Give what makes a site equal to another."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.compare}


class SiteError(ModelError):
    """One site cannot be read; the others may."""

    def __init__(self, site: Site, reason: str) -> None:
        super().__init__(f"site {site.name}: {reason}; leave it out with --sites")
        self.site, self.reason = site, reason


def parse_address(address: str) -> tuple[str, int]:
    """Split a unit's address into module name and index in the module's output.

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
