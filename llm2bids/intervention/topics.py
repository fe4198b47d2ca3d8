"""Topics: the tasks of an analysis that have a bank of prompts, with their mean effect maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import UsageError
from llm2bids.inference.effects import Effects, read_effects
from llm2bids.inference.inputs import open_inputs
from llm2bids.intervention.subject import Subject


@dataclass(frozen=True, kw_only=True, eq=False)
class Topics:
    """The topics of an analysis, named by their trial types."""

    subject: Subject
    effects: Effects

    @cached_property
    def banks(self) -> dict[str, str]:
        """Bank of each topic."""
        tasks = self.subject.dataset.paradigm.tasks
        banks = {kind: bank for task in tasks for kind, bank in task.conditions}
        labels = [condition.label for condition in self.effects.conditions]
        return {label: banks[label] for label in labels if label in banks}

    def choose(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Give the topics asked for, all without; refuse unknown ones."""
        if unknown := [label for label in labels if label not in self.banks]:
            raise UsageError(
                f"--task {', '.join(unknown)}: not in the analysis, which has "
                f"{', '.join(self.banks) or 'no task with a bank of prompts'}"
            )
        return tuple(labels) or tuple(self.banks)

    def effect(self, label: str) -> npt.NDArray[np.float64]:
        """Average the participants' effect maps, (n_units,); 0 outside the mask."""
        column = [condition.label for condition in self.effects.conditions].index(label)
        values = np.zeros(self.effects.mask.size)
        values[self.effects.mask] = self.effects.values[:, column].mean(axis=0)
        return values


def open_topics(subject: Subject, analysis_dir: Path) -> Topics:
    """Read the effect maps of an analysis of the subject's dataset."""
    effects = read_effects(open_inputs(subject.dataset.path), analysis_dir).complete()
    return Topics(subject=subject, effects=effects)
