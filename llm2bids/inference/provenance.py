"""Provenance: the participants, runs and prompts that a map was made from."""

from collections.abc import Mapping
from dataclasses import dataclass
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

    def union(self, other: "Provenance") -> "Provenance":
        """Join what two maps were made from.

        Parameters
        ----------
        other : Provenance
            Of a map in the same space.

        Returns
        -------
        Provenance
            Of a map made from both.

        Raises
        ------
        InferenceError
            If the spaces differ.
        """
        if (self.space, self.fingerprint) != (other.space, other.fingerprint):
            raise InferenceError(
                f"mixed spaces: {', '.join(self.runs[:1])} has {self.space} "
                f"({self.fingerprint[:12]}), {', '.join(other.runs[:1])} has {other.space} "
                f"({other.fingerprint[:12]}); expected one model, choice of sites and "
                "calibration; analyze them apart"
            )
        return Provenance(
            participants=_merged(self.participants, other.participants),
            runs=_merged(self.runs, other.runs),
            prompts=_merged(self.prompts, other.prompts),
            space=self.space,
            fingerprint=self.fingerprint,
        )


def _merged(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
