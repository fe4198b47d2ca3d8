"""pybids finds every run with its events, series, mask, confounds and metadata."""

import json
import warnings

import nibabel as nib
import pytest

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore"),  # pybids' own, under current pandas
]

KEYS = ("subject", "task", "run")


@pytest.fixture(scope="module")
def layout(written):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bids import BIDSLayout

        return BIDSLayout(written, derivatives=True)


def runs_of(files):
    return sorted((tuple(file.entities.get(key) for key in KEYS) for file in files), key=str)


@pytest.mark.parametrize(
    "query",
    [
        {"suffix": "events", "extension": ".tsv", "scope": "raw"},
        {"suffix": "stim", "extension": ".tsv.gz", "scope": "raw"},
        {"suffix": "bold", "desc": "preproc", "space": "Tiny", "extension": ".nii.gz"},
        {"suffix": "mask", "desc": "brain", "datatype": "func", "extension": ".nii.gz"},
        {"suffix": "boldref", "space": "Tiny", "extension": ".nii.gz"},
        {"suffix": "timeseries", "desc": "confounds", "extension": ".tsv"},
        {"suffix": "tokens", "desc": "transcript", "extension": ".tsv"},
    ],
)
def test_one_file_for_each_run(layout, query):
    raw = layout.get(suffix="bold", extension=".nii.gz", scope="raw")
    assert len(raw) == 4
    assert runs_of(layout.get(**query)) == runs_of(raw)


def test_metadata_agree_with_headers(layout):
    files = layout.get(suffix="bold", extension=".nii.gz")
    assert len(files) == 8
    for file in files:
        about = file.get_metadata()
        assert about["RepetitionTime"] == nib.load(file.path).header.get_zooms()[3]
        assert about["TaskName"] == file.entities["task"]
        assert about["StartTime"] == 0.0
        assert ("SkullStripped" in about) == (file.entities.get("desc") == "preproc")


def test_an_anatomy_for_each_participant(layout):
    assert layout.get_subjects() == ["01", "02"]
    assert len(layout.get(suffix="T1w", scope="raw", extension=".nii.gz")) == 2
    derived = layout.get(suffix="T1w", desc="preproc", space="Tiny", extension=".nii.gz")
    assert len(derived) == 2


def test_run_variables_come_from_events_and_confounds(layout):
    collections = layout.get_collections("run", task="fossils", space="Tiny")
    assert len(collections) == 2
    for collection in collections:
        assert {"trial_type", "prompt_position", "surprisal_deviation"} <= set(collection.variables)


@pytest.mark.parametrize(
    ("name", "levels"),
    [("task-fossils", ["run", "dataset"]), ("all", ["run", "subject", "dataset"])],
)
def test_the_shipped_models_are_valid_and_run_to_the_end(layout, written, name, levels):
    from bids.modeling import BIDSStatsModelsGraph
    from bsmschema.models import BIDSStatsModel

    model = json.loads((written / f"code/models/{name}_smdl.json").read_text())
    BIDSStatsModel.model_validate(model)
    graph = BIDSStatsModelsGraph(layout, model)
    graph.load_collections()
    node = graph.root_node
    outputs = node.run(group_by=node.group_by, missing_values="error")
    for output in outputs:
        own = f"trial_type.{output.entities['task']}"
        assert list(output.X) == ["intercept", own]
        assert sorted(set(output.X[own])) == [0, 1]
    seen = [node.level.lower()]
    while node.children:
        node = node.children[0].destination
        inputs = [contrast for output in outputs for contrast in output.contrasts]
        outputs = node.run(inputs, group_by=node.group_by, missing_values="error")
        assert outputs
        assert all(output.contrasts for output in outputs)
        seen.append(node.level.lower())
    assert seen == levels
    names = {contrast.name for output in outputs for contrast in output.contrasts}
    expected = {"fossils"} if name != "all" else {"fossils", "votes", "fossilsVsVotes"}
    assert names == expected
    assert all(len(output.X) == 2 for output in outputs), "one row for each participant"
