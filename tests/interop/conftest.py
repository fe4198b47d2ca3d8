"""Datasets that other projects' tools are run on.

`written` is made of synthetic recordings. `recorded` is a real scan of a tiny model; `planted` is
the same scan in which a patch of neighbouring units answers to each task.
"""

import shutil

import nibabel as nib
import numpy as np
import pytest

from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.scan.record import record

TASKS = ("pathology", "archeology")
N_PARTICIPANTS = 6
N_VOLUMES = 3 * 8 * 4
PLANTED = {"pathology": "model.layers.1.mlp.up_proj", "archeology": "model.layers.2.mlp.gate_proj"}
"""The site of which the first `PATCH` units answer to a task."""
PATCH = 12
EFFECT = 200
"""Counts that planted units rise by while a task is on: two standard deviations at 100 counts."""


@pytest.fixture(scope="session")
def recorded(tiny_model_dir, tmp_path_factory) -> Dataset:
    """A scan of a tiny model: six participants, two tasks, 96 volumes; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return record(
            tmp_path_factory.mktemp("recorded") / "dataset",
            model=tiny_model_dir("llama"),
            n_participants=N_PARTICIPANTS,
            task_labels=TASKS,
            prompts_per_block=8,
            tokens_per_prompt=4,
            space_label="Tiny",
            device="cpu",
            progress=False,
        )


@pytest.fixture(scope="session")
def planted(recorded, tmp_path_factory) -> Dataset:
    """The same scan, in which the patches of `PLANTED` answer to their tasks."""
    path = tmp_path_factory.mktemp("planted") / "dataset"
    shutil.copytree(recorded.path, path)
    dataset = open_dataset(path)
    for run in dataset.runs:
        image = nib.load(run.bold)
        counts = np.asarray(image.dataobj)
        voxels = planted_voxels(dataset, run.task)
        counts[(*voxels.T, slice(N_VOLUMES // 3, 2 * N_VOLUMES // 3))] += EFFECT
        changed = nib.Nifti1Image(counts, image.affine, image.header)
        for file in (run.bold, run.preproc):  # hard links of one file until now
            file.unlink()
            changed.to_filename(file)
    return dataset


def planted_voxels(dataset: Dataset, task: str) -> np.ndarray:
    """Voxels of the units that answer to a task, shape ``(PATCH, 3)``."""
    units = [dataset.space.unit_of(f"{PLANTED[task]}[{index}]") for index in range(PATCH)]
    return dataset.space.voxels[units]


@pytest.fixture(scope="session")
def voxels_of(planted):
    """``voxels_of("pathology")``: voxels that answer to a task, for indexing an array."""
    return lambda task: tuple(planted_voxels(planted, task).T)
