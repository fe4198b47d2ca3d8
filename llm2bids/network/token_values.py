"""Every volume of every prompt at some units: what variance components are estimated from."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from llm2bids.exceptions import NetworkError
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.trials import volume_trials
from llm2bids.network.effects import PromptMeans
from llm2bids.space.image import BASELINE, COUNTS_PER_SD


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenValues:
    """Values of some units in every volume, by prompt.

    Parameters
    ----------
    values : ndarray of float32, shape (n_prompts, n_tokens, n_units)
        In standard deviations of the calibration.
    units : ndarray of int64, shape (n_units,)
        Units, in recording order.
    participants, runs, trial_types, prompt_ids : ndarray of str, shape (n_prompts,)
        As for `llm2bids.network.effects.PromptMeans`.
    """

    values: npt.NDArray[np.float32]
    units: npt.NDArray[np.int64]
    participants: npt.NDArray[np.str_]
    runs: npt.NDArray[np.str_]
    trial_types: npt.NDArray[np.str_]
    prompt_ids: npt.NDArray[np.str_]

    def first_tokens(self, n_tokens: int) -> PromptMeans:
        """Average the first volumes of each prompt.

        Parameters
        ----------
        n_tokens : int
            Volumes of each prompt to use.

        Returns
        -------
        PromptMeans
            Their means.

        Raises
        ------
        NetworkError
            If prompts have fewer volumes.
        """
        if not 1 <= n_tokens <= self.values.shape[1]:
            raise NetworkError(
                f"tokens per prompt: found {n_tokens}, expected 1 to {self.values.shape[1]}, which "
                "a prompt has"
            )
        return PromptMeans(
            values=self.values[:, :n_tokens].mean(axis=1),
            participants=self.participants,
            runs=self.runs,
            trial_types=self.trial_types,
            prompt_ids=self.prompt_ids,
        )


def read_token_values(
    inputs: Inputs,
    units: npt.NDArray[np.int64],
    *,
    participant_label: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    progress: bool = False,
) -> TokenValues:
    """Read the volumes of all prompts at some units.

    Parameters
    ----------
    inputs : Inputs
        A recorded dataset, from `llm2bids.inference.inputs.open_inputs`.
    units : ndarray of int64, shape (n_units,)
        Units, in recording order. Memory is ``4 * n_volumes * n_units`` bytes.
    participant_label, task : sequence of str, optional
        Only these; labels with or without ``sub-`` and ``task-``.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    TokenValues
        In the order of participants, tasks, runs and presentation.

    Raises
    ------
    NetworkError
        If prompts have different numbers of volumes, or there is no such unit.
    InferenceError
        If an image is missing, damaged, of another space, or does not fit its transcript.
    """
    if units.size == 0 or units.min() < 0 or units.max() >= inputs.space.n_units:
        raise NetworkError(f"units: expected one or more from 0 to {inputs.space.n_units - 1}")
    chosen = inputs.choose(participant_label=participant_label, task=task)
    entries = [entry for found in chosen.values() for entry in found]
    places = inputs.space.file_index[units]
    parts: list[npt.NDArray[np.float32]] = []
    labels: list[tuple[str, ...]] = []
    for entry in tqdm(entries, desc="volumes", file=sys.stderr, disable=not progress):
        run = inputs.load(entry)
        trials = volume_trials(run.transcript, run.n_volumes)
        counts = np.bincount(trials)
        if counts.min() != counts.max() or (parts and counts[0] != parts[0].shape[1]):
            raise NetworkError(
                f"sub-{run.participant_label} task-{run.task}: prompts of {counts.min()} to "
                f"{counts.max()} volumes; expected the same number in all runs; choose other runs"
            )
        values = np.concatenate(
            [block.reshape(len(block), -1)[:, places] for _, block in run.series.blocks()]
        )[np.argsort(trials, kind="stable")]
        scaled = (values.astype(np.float32) - np.float32(BASELINE)) / np.float32(COUNTS_PER_SD)
        parts.append(scaled.reshape(counts.size, counts[0], units.size))
        index = "" if run.run is None else f"_run-{run.run}"
        name = (run.participant_label, f"task-{run.task}{index}")
        table = run.trials[["trial_type", "prompt_id"]].astype(str)
        labels += [(*name, *row) for row in table.itertuples(index=False, name=None)]
    who, runs, kinds, prompts = (np.asarray(names) for names in zip(*labels, strict=True))
    return TokenValues(
        values=np.concatenate(parts),
        units=units,
        participants=who,
        runs=runs,
        trial_types=kinds,
        prompt_ids=prompts,
    )
