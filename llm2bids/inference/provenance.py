"""Provenance: the participants, runs and prompts that a map was made from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from llm2bids.exceptions import InferenceError


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a derived map was made from.

    Parameters
    ----------
    participants : tuple of str
        Labels without ``sub-``.
    runs : tuple of str
        ``sub-<label>_task-<task>[_run-<index>]``.
    prompts : tuple of str
        Prompt ids, on and off.
    space : str
        Label of the space.
    fingerprint : str
        Fingerprint of the space.
    """

    participants: tuple[str, ...]
    runs: tuple[str, ...]
    prompts: tuple[str, ...]
    space: str
    fingerprint: str

    def sidecar(self) -> dict[str, object]:
        """Say the same in a sidecar's keys.

        Returns
        -------
        dict
            ``Participants``, ``Runs``, ``Prompts``, ``SpatialReference``, ``SpaceFingerprint``.
        """
        return {
            "SpaceLabel": self.space,
            "SpaceFingerprint": self.fingerprint,
            "Participants": list(self.participants),
            "Runs": list(self.runs),
            "Prompts": list(self.prompts),
        }

    @classmethod
    def read(cls, sidecar: Mapping[str, Any], path: Path) -> "Provenance":
        """Read the provenance from a sidecar.

        Parameters
        ----------
        sidecar : mapping
            Contents of the JSON file.
        path : Path
            The file, for the message.

        Returns
        -------
        Provenance
            What the map was made from.

        Raises
        ------
        InferenceError
            If a key is missing.
        """
        try:
            return cls(
                participants=tuple(sidecar["Participants"]),
                runs=tuple(sidecar["Runs"]),
                prompts=tuple(sidecar["Prompts"]),
                space=sidecar["SpaceLabel"],
                fingerprint=sidecar["SpaceFingerprint"],
            )
        except KeyError as error:
            raise InferenceError(
                f"{path}: no key {error}; expected the provenance that llm2bids writes; run the "
                "participant level again"
            ) from None

    def union(self, *others: "Provenance") -> "Provenance":
        """Join what several maps were made from.

        Parameters
        ----------
        *others : Provenance
            Of maps in the same space.

        Returns
        -------
        Provenance
            Of a map made from all.

        Raises
        ------
        InferenceError
            If the spaces differ.
        """
        for other in others:
            if (self.space, self.fingerprint) != (other.space, other.fingerprint):
                raise InferenceError(
                    f"mixed spaces: {', '.join(self.runs[:1])} has {self.space} "
                    f"({self.fingerprint[:12]}), {', '.join(other.runs[:1])} has {other.space} "
                    f"({other.fingerprint[:12]}); expected one model, choice of sites and "
                    "calibration; analyze them apart"
                )
        every = (self, *others)
        return Provenance(
            participants=_merged(one.participants for one in every),
            runs=_merged(one.runs for one in every),
            prompts=_merged(one.prompts for one in every),
            space=self.space,
            fingerprint=self.fingerprint,
        )


def _merged(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(lists)))
