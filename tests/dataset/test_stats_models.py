import json
from dataclasses import replace

from llm2bids.dataset.first_files import all_tasks_model, task_model


def test_models_are_valid_and_name_every_condition(synthetic):
    from bsmschema.models import BIDSStatsModel

    fields = {"space_label": "Tiny"}
    tasks = synthetic.paradigm.tasks
    one = task_model(tasks[0], fields)
    BIDSStatsModel.model_validate(one)
    assert one["Nodes"][0]["Model"]["X"] == [1, "trial_type.fossils"]
    assert one["Input"] == {"task": ["fossils"], "space": ["Tiny"]}
    every = all_tasks_model(tasks, fields)
    BIDSStatsModel.model_validate(every)
    assert [node["Model"]["Type"] for node in every["Nodes"]] == ["glm", "meta", "glm"]
    assert every["Nodes"][0]["Model"]["X"] == [1, "trial_type.*"], "a run lacks the other tasks"
    names = [contrast["Name"] for contrast in every["Nodes"][1]["Contrasts"]]
    assert names == ["fossils", "votes", "fossilsVsVotes"]
    assert "Convolve" not in json.dumps([one, every])


def test_the_model_of_all_tasks_names_those_that_were_recorded(synthetic, tmp_path):
    place = tmp_path / "ds/code/models/all_smdl.json"
    fossils, votes = (synthetic.make_design(1, task) for task in ("fossils", "votes"))
    with synthetic.create(tmp_path / "ds") as writer:
        assert json.loads(place.read_text())["Input"]["task"] == ["fossils", "votes"]
        writer.write_run(synthetic.make_recording(fossils), t_r=synthetic.t_r)
        writer.finish_participant("01")
        assert not place.exists(), "one condition: the task's own model says all"
        writer.write_run(synthetic.make_recording(votes), t_r=synthetic.t_r)
        writer.finish_participant("01")
    model = json.loads(place.read_text())
    assert model == all_tasks_model(synthetic.paradigm.tasks, {"space_label": "Tiny"})


def test_model_of_a_task_with_several_conditions(synthetic):
    from bsmschema.models import BIDSStatsModel

    both = replace(
        synthetic.paradigm.tasks[0],
        label="both",
        conditions=(("fossils", "fossils"), ("votes", "votes")),
    )
    model = task_model(both, {"space_label": "Tiny"})
    BIDSStatsModel.model_validate(model)
    assert len(model["Nodes"][0]["Contrasts"]) == 2
