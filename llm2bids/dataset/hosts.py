"""On which machines the runs of a dataset were recorded: other rounding is a batch effect."""

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

from llm2bids.dataset.layout import list_bolds, parse_path, sidecar
from llm2bids.dataset.settings import read_sidecar

log = logging.getLogger(__name__)

_KEYS = ("Processor", "NumberOfThreads", "ComputeDataType", "Device")
"""Entries of a series' sidecar that rounding depends on, with the versions of these packages."""

_PACKAGES = ("torch", "transformers", "numpy")


def recording_hosts(root: Path) -> dict[str, list[str]]:
    """List the participants that were recorded on each kind of machine, most runs first."""
    participants: dict[str, list[str]] = defaultdict(list)
    for file in list_bolds(root):
        name = _describe(read_sidecar(root / sidecar(file)))
        participants[name].append(str(parse_path(file).sub))
    ordered = sorted(participants.items(), key=lambda item: -len(item[1]))
    return {name: sorted(set(labels)) for name, labels in ordered}


def batch_effect(root: Path) -> str:
    """Say which participants were computed on another kind of machine; empty if none were."""
    hosts = recording_hosts(root)
    if len(hosts) < 2:
        return ""
    lines = [f"  {name}: sub-{', sub-'.join(labels)}" for name, labels in hosts.items()]
    return "\n".join(
        [
            f"{root}: runs were computed on {len(hosts)} kinds of machine, which round otherwise. "
            "That is a batch effect (sampled tokens may differ too); the sidecars of the runs say "
            "which, as a covariate of the group level or to leave participants out:",
            *lines,
        ]
    )


def warn_of_batch_effect(root: Path) -> None:
    """Warn where participants were computed on several kinds of machine."""
    text = batch_effect(root)
    if text:
        log.warning("%s", text)


def _describe(metadata: dict[str, Any]) -> str:
    versions = metadata.get("Versions", {})
    known = [f"{name} {versions[name]}" for name in _PACKAGES if versions.get(name)]
    parts = [str(metadata[key]) for key in _KEYS if key in metadata and key != "NumberOfThreads"]
    if "Processor" not in metadata:
        parts.insert(0, "processor not said")
    if (n_threads := metadata.get("NumberOfThreads")) is not None:
        parts.insert(1, f"{n_threads} thread{'s' if n_threads > 1 else ''}")
    return ", ".join([*parts, *known])
