"""The first files of a dataset and of a task, and the BIDS Stats Models of its tasks."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from llm2bids.dataset.layout import DERIVATIVE, INTACT, task_files
from llm2bids.dataset.settings import PARADIGM, SETTINGS
from llm2bids.dataset.sidecar import (
    fill_json,
    fill_text,
    generated_by,
    task_bold_json,
    task_events_json,
)
from llm2bids.paradigm.task import Paradigm, Prompt, Task
from llm2bids.store.commit import Staging
from llm2bids.store.json import read_json, to_json

_T1W = PurePosixPath("T1w.json")  # place of the sidecar of all anatomies

# Place of what was compared with a plain forward pass before the scan.
EXACTNESS = PurePosixPath("code/exactness.json")

# Place of the model of an edit against the intact model.
SESSIONS_MODEL = PurePosixPath("code/models/sessions_smdl.json")

# Place of the BIDS Stats Model of all tasks.
ALL_TASKS_MODEL = PurePosixPath("code/models/all_smdl.json")


def write_static_files(
    stage: Staging,
    *,
    settings: Mapping[str, Any],
    paradigm: Paradigm,
    banks: Mapping[str, Sequence[Prompt]],
    authors: Sequence[str],
    fields: Mapping[str, Any],
) -> None:
    """Stage what does not depend on runs or on the space."""
    root = PurePosixPath()
    for folder, name, sources in (
        (root, "raw", {"SourceDatasets": [_source_dataset(settings)]}),
        (DERIVATIVE, "derivative", {}),
    ):
        known = {"Authors": list(authors), **sources}
        description = fill_json(f"{name}/dataset_description.json", fields, **known)
        description["GeneratedBy"] = generated_by(description, settings, fields)
        stage.text(folder / "dataset_description.json", to_json(description))
        readme = "story_README.md" if fields["kind"] == "story" else "README.md"
        stage.text(folder / "README.md", fill_text(f"{name}/{readme}", fields))
        stage.text(folder / "CHANGES", fill_text(f"{name}/CHANGES", fields))
    stage.text(DERIVATIVE / ".bidsignore", fill_text("derivative/bidsignore", {}))
    validator = fill_json("validator_config.json", {})
    stage.text(root / "code/bids-validator-config.json", to_json(validator))
    stage.text(root / PARADIGM, paradigm.source)
    if paradigm.order != "story":  # every word of a story is of one type
        for task in paradigm.tasks:
            file = PurePosixPath(f"code/models/task-{task.label}_smdl.json")
            stage.text(file, to_json(task_model(task, fields)))
        write_all_tasks_model(stage, paradigm.tasks, fields)
    for condition, prompts in banks.items():
        table = pd.DataFrame([vars(prompt) for prompt in prompts])
        stage.text(
            root / f"stimuli/{condition}.tsv",
            table.to_csv(sep="\t", index=False, lineterminator="\n"),
        )
    stage.text(root / SETTINGS, to_json(settings))


def write_participant_sidecars(stage: Staging, fields: Mapping[str, Any]) -> None:
    """Stage what all participants share, with the first of them: alone it would not be valid."""
    stage.json(
        PurePosixPath("participants.json"), fill_json("raw/participants.json", fields), once=True
    )
    anatomy = fill_json("raw/T1w.json", fields) | fill_json("raw/mr_fields.json", fields)
    stage.json(_T1W, anatomy, once=True)


def write_sessions(stage: Staging, participant_label: str, edited: str) -> None:
    """Stage the table of a participant's sessions: which one is of the edited model."""
    # without a sidecar: FitLins fails on a description of the column; the shipped configuration
    # of the validator says so
    rows = f"session_id\tedited\nses-{INTACT}\t0\nses-{edited}\t1\n"
    file = PurePosixPath(f"sub-{participant_label}/sub-{participant_label}_sessions.tsv")
    stage.text(file, rows)


def write_task_files(stage: Staging, task: Task, *, t_r: float, fields: Mapping[str, Any]) -> None:
    """Stage what all runs of a task inherit, with its first run."""
    stim = fill_json(
        f"raw/{fields['kind']}_stim.json", {**fields, "task": task.label}, SamplingFrequency=1 / t_r
    )
    contents = (
        task_bold_json(task.label, task.conditions, fields),
        task_events_json(task.conditions, fields),
        stim,
    )
    for file, content in zip(task_files(task.label), contents, strict=True):
        stage.json(file, content, once=True)


def write_all_tasks_model(stage: Staging, tasks: Sequence[Task], fields: Mapping[str, Any]) -> None:
    """Stage the BIDS Stats Model of these tasks, if they have two conditions or more together."""
    # of recorded tasks only: pybids and FitLins refuse a model that names a task without runs
    if fields["edit"] and tasks:
        _write_model(stage, SESSIONS_MODEL, _tasks_model("sessions", tasks, fields)[0])
    if len({name for task in tasks for name, _ in task.conditions}) < 2:
        stage.remove(ALL_TASKS_MODEL)
    else:
        _write_model(stage, ALL_TASKS_MODEL, all_tasks_model(tasks, fields))


def _write_model(stage: Staging, file: PurePosixPath, model: dict[str, Any]) -> None:
    """Stage a model where it is not there, or is of other tasks."""
    present: Mapping[str, Any] = {}
    if (stage.root / file).is_file():
        present = read_json(stage.root / file)
    if stage.overwrite or present.get("Input") != model["Input"]:
        stage.json(file, model)


def _source_dataset(settings: Mapping[str, Any]) -> dict[str, str]:
    """Name the model's weights as the source; a URL only where it is one."""
    source = {"Version": str(settings.get("revision") or settings.get("weights_sha256") or "n/a")}
    url = str(settings.get("source") or "")
    return {"URL": url, **source} if url.startswith(("https://", "http://")) else source


def task_model(task: Task, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Make the model of one task: run -> dataset."""
    # https://bids-standard.github.io/stats-models/, version 1.0
    names = [name for name, _ in task.conditions]
    model = fill_json("models/task_smdl.json", {**fields, "task": task.label})
    run = model["Nodes"][0]
    run["Model"]["X"] = [1, *(f"trial_type.{name}" for name in names)]
    run["Contrasts"] = _run_contrasts(names)
    return _by_session(model, fields)


def all_tasks_model(tasks: Sequence[Task], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Make the model of all tasks: run -> subject -> dataset, with differences of conditions."""
    model, names = _tasks_model("all", tasks, fields)
    subject = model["Nodes"][1]
    subject["Model"]["X"] = names
    subject["Contrasts"] = [_contrast(name, {name: 1}) for name in names]
    for first, second in pairwise(names):
        name = f"{first}Vs{second[0].upper()}{second[1:]}"
        subject["Contrasts"].append(_contrast(name, {first: 1, second: -1}))
    return _by_session(model, fields)


def _tasks_model(
    name: str, tasks: Sequence[Task], fields: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Begin a model of several tasks, and list their conditions."""
    # a run has the conditions of its own task only (X is trial_type.*): pybids refuses names that a
    # run lacks; `edited`, 0 or 1, in the model of sessions is a column of the sessions.tsv
    names = list(dict.fromkeys(name for task in tasks for name, _ in task.conditions))
    model = fill_json(f"models/{name}_smdl.json", fields)
    model["Input"]["task"] = [task.label for task in tasks]
    model["Nodes"][0]["Contrasts"] = _run_contrasts(names)
    return model, names


def _by_session(model: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Model each session by itself, where a dataset has sessions."""
    if fields.get("edit"):
        for node in model["Nodes"]:
            node["GroupBy"].append("session")
    return model


def _run_contrasts(names: Sequence[str]) -> list[dict[str, Any]]:
    return [_contrast(name, {f"trial_type.{name}": 1}) for name in names]


def _contrast(name: str, weights: Mapping[str, int]) -> dict[str, Any]:
    conditions = list(weights)
    numbers = list(weights.values())
    return {"Name": name, "ConditionList": conditions, "Weights": numbers, "Test": "t"}
