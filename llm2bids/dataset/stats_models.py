"""BIDS Stats Models for a dataset: one for each task, and one for all of them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from llm2bids.dataset.static_files import fill_json
from llm2bids.paradigm.task import Task


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
