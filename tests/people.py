"""A small dataset as of people, in fMRIPrep's layout, with responses that are known."""

import json

import nibabel as nib
import numpy as np
import pandas as pd

SHAPE = (5, 6, 7)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
N_VOLUMES = 40
T_R = 2.0
EVENTS = pd.DataFrame(
    {
        "onset": [4.0, 16.0, 28.0, 40.0, 52.0, 64.0],
        "duration": [6.0] * 6,
        "trial_type": ["tea", "cup", "tea", "cup", "tea", "cup"],
        "rating": [1.0, 2.0, 3.0, 5.0, 4.0, 3.0],
    }
)


LABELS = ("01", "02", "03", "04")
FACTOR = {"Name": "Factor", "Input": ["trial_type"]}
MODEL = {
    "Name": "drinks",
    "BIDSModelVersion": "1.0.0",
    "Input": {"task": ["drinks"]},
    "Nodes": [
        {
            "Level": "Run",
            "Name": "run",
            "GroupBy": ["subject", "run", "task"],
            "Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": [FACTOR]},
            "Model": {"Type": "glm", "X": [1, "trial_type.*", "framewise_displacement"]},
            "Contrasts": [
                {
                    "Name": "tea_vs_cup",
                    "ConditionList": ["trial_type.tea", "trial_type.cup"],
                    "Weights": ["1/2", "-1/2"],
                    "Test": "t",
                },
                {
                    "Name": "any",
                    "ConditionList": ["trial_type.tea", "trial_type.cup"],
                    "Weights": [[1, 0], [0, 1]],
                    "Test": "F",
                },
            ],
            "DummyContrasts": {"Contrasts": ["trial_type.tea"], "Test": "t"},
        },
        {
            "Level": "Subject",
            "Name": "subject",
            "GroupBy": ["subject", "contrast"],
            "Model": {"Type": "meta", "X": [1]},
            "DummyContrasts": {"Test": "t"},
        },
        {
            "Level": "Dataset",
            "Name": "dataset",
            "GroupBy": ["contrast"],
            "Model": {"Type": "glm", "X": [1, "age"]},
            "DummyContrasts": {"Test": "t"},
        },
    ],
}


def boxcar(trial_type):
    """The condition at the volumes' times."""
    times = np.arange(N_VOLUMES) * T_R
    rows = EVENTS[EVENTS["trial_type"] == trial_type]
    on = [(times >= row.onset) & (times < row.onset + row.duration) for row in rows.itertuples()]
    return np.any(on, axis=0).astype(float)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def make_people(root, *, n_runs=2, space="Tiny"):
    """Write the dataset; the first masked voxel answers to tea, the second to cup."""
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:4, 1:5, 1:6] = 1
    derivative = root / "derivatives" / "fmriprep"
    about = {"Name": "people", "BIDSVersion": "1.11.1"}
    write_json(root / "dataset_description.json", {**about, "DatasetType": "raw"})
    made = {"DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}
    write_json(derivative / "dataset_description.json", {**about, **made})
    participants = pd.DataFrame(
        {
            "participant_id": [f"sub-{label}" for label in LABELS],
            "age": [20.0, 23.0, 26.0, 29.0],
            "group": ["b", "a", "b", "a"],
        }
    )
    participants.to_csv(root / "participants.tsv", sep="\t", index=False)
    for label in LABELS:
        for run in range(1, n_runs + 1):
            name = f"sub-{label}_task-drinks_run-{run}"
            raw = root / f"sub-{label}" / "func"
            prepared = derivative / f"sub-{label}" / "func"
            raw.mkdir(parents=True, exist_ok=True)
            prepared.mkdir(parents=True, exist_ok=True)
            EVENTS.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
            write_json(raw / f"{name}_bold.json", {"RepetitionTime": T_R, "TaskName": "drinks"})
            data = 1000 + 10 * rng.normal(size=(*SHAPE, N_VOLUMES))
            for voxel, kind in (((1, 1, 1), "tea"), ((1, 1, 2), "cup")):
                data[voxel] += 60 * boxcar(kind)
            image = nib.Nifti1Image(data.astype(np.float32), AFFINE)
            image.header.set_zooms((3, 3, 3, T_R))
            image.header.set_xyzt_units("mm", "sec")
            image.to_filename(raw / f"{name}_bold.nii.gz")
            stem = f"{name}_space-{space}_desc"
            image.to_filename(prepared / f"{stem}-preproc_bold.nii.gz")
            write_json(prepared / f"{stem}-preproc_bold.json", {"RepetitionTime": T_R})
            nib.Nifti1Image(mask, AFFINE).to_filename(prepared / f"{stem}-brain_mask.nii.gz")
            confounds = pd.DataFrame(
                {
                    "trans_x": rng.normal(size=N_VOLUMES).cumsum(),
                    "framewise_displacement": [np.nan, *rng.random(N_VOLUMES - 1)],
                }
            )
            confounds.to_csv(
                prepared / f"{name}_desc-confounds_timeseries.tsv",
                sep="\t", index=False, na_rep="n/a",
            )  # fmt: skip
    return root
