"""The prompts that a contrast's pooled test takes, gathered from the runs of all participants."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llm2bids.inference.group import GroupContrast
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.pooled import PooledTest, pooled_test
from llm2bids.inference.runs import prompt_series


def pooled_contrast(
    inputs: Inputs,
    question: GroupContrast,
    participants: Sequence[str],
    *,
    mask: npt.NDArray[np.bool_],
    n_perm: int,
    random_state: int = 0,
) -> PooledTest:
    """Gather the prompts of a contrast, and permute their labels.

    Against off, labels are permuted within each run. Against the other tasks, the on prompts of
    all tasks are compared, and labels are permuted within participant: prompts are contexts of
    their own, so runs do not matter.

    Parameters
    ----------
    inputs : Inputs
        The dataset.
    question : GroupContrast
        One trial type against off or against the other tasks.
    participants : sequence of str
        Labels that take part.
    mask : ndarray of bool, shape (n_x, n_y, n_z)
        Units that every participant has.
    n_perm : int
        Random permutations.
    random_state : int
        Their seed.

    Returns
    -------
    PooledTest
        Statistics of every voxel of `mask`.
    """
    trial_types = {name: label for (name, label), _ in question.weights}
    is_against_off = question.against == "off"
    inside = mask[inputs.mask]
    series, labels, groups = [], [], []
    chosen = inputs.choose(participant_label=participants, task=sorted(trial_types))
    for (label, name), entries in chosen.items():
        for entry in entries:
            run = inputs.load(entry)
            kinds = run.trials["trial_type"].to_numpy()
            kept = kinds == trial_types[name]
            if is_against_off:
                kept |= kinds == ""
            series.append(prompt_series(run)[kept][:, inside].astype(np.float32))
            labels.append((kinds[kept] != "") & (name == question.task))
            block = f"{label}-{entry.run}" if is_against_off else label
            groups.append(np.full(int(kept.sum()), block))
    return pooled_test(
        np.concatenate(series),
        np.concatenate(labels),
        np.concatenate(groups),
        n_perm=n_perm,
        random_state=random_state,
    )
