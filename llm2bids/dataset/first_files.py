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

_T1W = PurePosixPath("T1w.json")
"""Place of the sidecar of all anatomies."""

EXACTNESS = PurePosixPath("code/exactness.json")
"""Place of what was compared with a plain forward pass before the scan."""

SESSIONS_MODEL = PurePosixPath("code/models/sessions_smdl.json")
"""Place of the model of an edit against the intact model."""

ALL_TASKS_MODEL = PurePosixPath("code/models/all_smdl.json")
"""Place of the BIDS Stats Model of all tasks."""


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
    root, derivative = PurePosixPath(), DERIVATIVE
    source = _source_dataset(settings)
    raw = fill_json(
        "raw/dataset_description.json", fields, Authors=list(authors), SourceDatasets=[source]
    )
    raw["GeneratedBy"] = generated_by(raw, settings, fields)
    stage.text(root / "dataset_description.json", to_json(raw))
    readme = "story_README.md" if fields["kind"] == "story" else "README.md"
    for name, template in (("README.md", readme), ("CHANGES", "CHANGES")):
        stage.text(root / name, fill_text(f"raw/{template}", fields))
        stage.text(derivative / name, fill_text(f"derivative/{template}", fields))
    derived = fill_json("derivative/dataset_description.json", fields, Authors=list(authors))
    derived["GeneratedBy"] = generated_by(derived, settings, fields)
    stage.text(derivative / "dataset_description.json", to_json(derived))
    stage.text(derivative / ".bidsignore", fill_text("derivative/bidsignore", {}))
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


def write_all_tasks_model(stage: Staging, tasks: Sequence[Task], fields: Mapping[str, Any]) -> bool:
    """Stage the BIDS Stats Model of these tasks, if they have two conditions or more together."""
    # of recorded tasks only: pybids and FitLins refuse a model that names a task without runs
    if fields["edit"] and tasks:
        _write_model(stage, SESSIONS_MODEL, sessions_model(tasks, fields))
    if len({name for task in tasks for name, _ in task.conditions}) < 2:
        return False
    _write_model(stage, ALL_TASKS_MODEL, all_tasks_model(tasks, fields))
    return True


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
    model = fill_json("models/task_smdl.json", {**fields, "task": task.label})
    _fill_run_node(model["Nodes"][0], [name for name, _ in task.conditions])
    return _by_session(model, fields)


def all_tasks_model(tasks: Sequence[Task], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Make the model of all tasks: run -> subject -> dataset, with differences of conditions."""
    names = list(dict.fromkeys(name for task in tasks for name, _ in task.conditions))
    model = fill_json("models/all_smdl.json", fields)
    model["Input"]["task"] = [task.label for task in tasks]
    run, subject, _ = model["Nodes"]
    _fill_run_node(run, names)
    # a run has the conditions of its own task only; pybids refuses names that a run lacks
    run["Model"]["X"] = [1, "trial_type.*"]
    subject["Model"]["X"] = names
    subject["Contrasts"] = [
        *({"Name": name, "ConditionList": [name], "Weights": [1], "Test": "t"} for name in names),
        *(
            {
                "Name": f"{first}Vs{second[0].upper()}{second[1:]}",
                "ConditionList": [first, second],
                "Weights": [1, -1],
                "Test": "t",
            }
            for first, second in pairwise(names)
        ),
    ]
    return _by_session(model, fields)


def sessions_model(tasks: Sequence[Task], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Make the model of an edit: run -> subject, edited against intact -> dataset."""
    model = all_tasks_model(tasks, fields)
    label = fields["edit"]
    model |= {
        "Name": "sessions",
        "Description": f"Each condition under the edit {label} against the intact model, within "
        "participant, then one-sample tests over participants. No convolution: there is no "
        "haemodynamic lag.",
    }
    _, subject, dataset = model["Nodes"]
    # `edited`, 0 or 1, is a column of the participants' sessions.tsv
    subject |= {"GroupBy": ["subject", "contrast"], "Model": {"X": [1, "edited"], "Type": "meta"}}
    subject["Contrasts"] = [
        {"Name": "edited", "ConditionList": ["edited"], "Weights": [1], "Test": "t"}
    ]
    dataset["GroupBy"] = ["contrast"]
    return model


def _by_session(model: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Model each session by itself, where a dataset has sessions."""
    if fields.get("edit"):
        for node in model["Nodes"]:
            node["GroupBy"] = [*node["GroupBy"], "session"]
    return model


def _fill_run_node(node: dict[str, Any], names: Sequence[str]) -> None:
    node["Model"]["X"] = [1, *(f"trial_type.{name}" for name in names)]
    node["Contrasts"] = [
        {"Name": name, "ConditionList": [f"trial_type.{name}"], "Weights": [1], "Test": "t"}
        for name in names
    ]
