"""The group's maps: what each shows, and where its files are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2bids.dataset.layout import INTACT
from llm2bids.report.sources import Sources, sidecar

STATS = {"effect": "effect (rest sd)", "z": "z", "cohensd": "Cohen's d"}
"""Statistics that can be explored, and what they are called."""

CONTROLS = {"fpr": "uncorrected", "fdr": "FDR", "bonferroni": "Bonferroni"}
"""Height controls as the page calls them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupMap:
    """The group's effect map of one contrast."""

    contrast: str
    task: str  # empty for contrasts between tasks
    path: Path
    metadata: dict[str, Any]  # its sidecar

    @property
    def session(self) -> str:
        """Session of an edited model, or its change from the intact one; empty for the intact."""
        label = self.path.name.partition("_")[0].removeprefix("ses-")
        return label if self.path.name.startswith("ses-") and label != INTACT else ""

    @property
    def is_against_off(self) -> bool:
        """Whether it is one condition of the intact model against the off prompts."""
        return len(self.metadata.get("ContrastWeights", {})) == 1 and not self.session

    @property
    def is_against_others(self) -> bool:
        """Whether it is a task against the mean of the others."""
        others = self.contrast.endswith("VsOthers")
        return others and not (self.is_against_off or self.session)

    @property
    def title(self) -> str:
        """What the map shows, in words."""
        if self.session:
            return f"{self.contrast} (ses-{self.session})"
        return self.contrast.removesuffix("VsOthers") if self.is_against_others else self.contrast

    def other(self, stat: str) -> Path:
        """Give the path of another statistic's map."""
        return self.path.with_name(self.path.name.replace("_stat-effect_", f"_stat-{stat}_"))


def find_maps(sources: Sources) -> tuple[GroupMap, ...]:
    """List the group's effect maps: those against the off prompts first, in the tasks' order."""
    maps = []
    for path in sources.files("group/*_stat-effect_statmap.nii.gz"):
        metadata = sidecar(path)
        maps.append(
            GroupMap(
                contrast=str(metadata.get("ContrastLabel", path.name)),
                task=str(metadata.get("TaskLabel") or ""),
                path=path,
                metadata=metadata,
            )
        )
    order = {task: number for number, task in enumerate(sources.tasks)}
    return tuple(
        sorted(
            maps,
            key=lambda group_map: (
                not group_map.is_against_off,
                order.get(group_map.task, len(order)),
            ),
        )
    )


def against_off(maps: tuple[GroupMap, ...]) -> list[GroupMap]:
    """Choose the maps of one condition against the off prompts; all maps where there is none."""
    return [group_map for group_map in maps if group_map.is_against_off] or list(maps)
