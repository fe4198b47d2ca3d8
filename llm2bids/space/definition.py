"""What metadata of a space say, checked before anything is made of it: its grid and arrangement."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import SpaceError

ARRANGEMENTS = ("index", "functional", "random")
"""Arrangements that a space can have: native order, by responses, shuffled within each panel."""

_MOST_VOXELS = 1000
"""Most voxels for each unit, beside a million: metadata that claim more are refused unread."""

_NEEDED = ("label", "shape", "affine", "brain_box", "arrangement", "model_name", "weights_sha256")

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the units of a space came to their voxels, where it is not native order."""

    method: str  # ``components`` or ``random``; ``ward`` or ``tsne`` in older datasets
    prompt_ids: tuple[str, ...] = ()  # the localizer's; maps of the same prompts are circular
    n_tokens: int = 0  # of the localizer
    n_constant: int = 0  # units that did not vary in the localizer

    def metadata(self) -> dict[str, Any]:
        """Say it in JSON's types."""
        return {
            "method": self.method,
            "prompt_ids": list(self.prompt_ids),
            "n_tokens": self.n_tokens,
            "n_constant": self.n_constant,
        }


def read_layout(arrangement: str, entries: object) -> Layout | None:
    """Read what `Layout.metadata` wrote; None in index arrangement."""
    if arrangement not in ARRANGEMENTS:
        raise SpaceError(f"arrangement {arrangement!r}: expected one of {', '.join(ARRANGEMENTS)}")
    if entries is None and arrangement == "index":
        return None
    if not isinstance(entries, Mapping) or arrangement == "index":
        raise SpaceError(
            f"metadata of the space: layout is a {type(entries).__name__} in {arrangement} "
            "arrangement; expected an object with the method and the prompts that it was learned "
            "from, and none in index arrangement: restore the metadata"
        )
    ids = entries.get("prompt_ids")
    counts = [entries.get("n_tokens"), entries.get("n_constant")]
    if (
        not isinstance(entries.get("method"), str)
        or not isinstance(ids, list)
        or not all(isinstance(name, str) for name in ids)
        or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in counts)
    ):
        raise SpaceError(
            f"metadata of the space: layout has {', '.join(map(str, entries)) or 'nothing'}; "
            "expected method (text), prompt_ids (list of texts), n_tokens and n_constant (whole "
            "numbers): restore the metadata"
        )
    return Layout(
        method=entries["method"],
        prompt_ids=tuple(ids),
        n_tokens=entries["n_tokens"],
        n_constant=entries["n_constant"],
    )


def read_grid(
    metadata: Mapping[str, Any], voxels: npt.NDArray[np.int32]
) -> tuple[Shape, tuple[slice, ...], npt.NDArray[np.float64]]:
    """Read the grid's shape, the box of the brain (it holds all voxels), and the affine (4, 4)."""
    missing = [key for key in _NEEDED if key not in metadata]
    if missing:
        raise SpaceError(f"metadata of the space lack {', '.join(missing)}; write them anew")
    try:
        n_x, n_y, n_z = (int(n) for n in metadata["shape"])
        box = tuple(slice(int(start), int(stop)) for start, stop in metadata["brain_box"])
        affine = np.array(metadata["affine"], dtype=np.float64).reshape(4, 4)
    except (TypeError, ValueError, OverflowError) as error:
        raise SpaceError(
            f"shape, affine or brain_box of space {metadata['label']} are not numbers of a "
            f"three-dimensional grid ({error}); write the metadata anew"
        ) from None
    if min(n_x, n_y, n_z) < 1 or n_x * n_y * n_z > 1_000_000 + _MOST_VOXELS * len(voxels):
        raise SpaceError(
            f"space {metadata['label']} has the grid {(n_x, n_y, n_z)} for {len(voxels)} "
            "units; no arrangement makes that: write the metadata anew"
        )
    if not np.isfinite(affine).all():
        raise SpaceError(
            f"space {metadata['label']} has the affine {affine.tolist()}; expected finite "
            "millimetres: write the metadata anew"
        )
    first, stop = np.array([(axis.start, axis.stop) for axis in box]).T
    if np.any(voxels < np.maximum(first, 0)) or np.any(voxels >= np.minimum(stop, (n_x, n_y, n_z))):
        raise SpaceError(
            f"unit table has voxels outside the brain of space {metadata['label']} "
            f"({metadata['brain_box']} of grid {(n_x, n_y, n_z)}); "
            "table and metadata are not from the same space"
        )
    return (n_x, n_y, n_z), box, affine
