"""What is missing from a dataset leads other projects' tools to a message, as the docs say."""

import json
import shutil
import warnings

import pytest
from nilearn.glm.first_level import first_level_from_bids

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore"),  # pybids' own, under current pandas
]

DERIVATIVE = "derivatives/llm2bids"


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def remove_events(root):
    (root / "sub-02/func/sub-02_task-fossils_events.tsv").unlink()


def remove_runs(root):
    for base in (root, root / DERIVATIVE):
        shutil.rmtree(base / "sub-02/func")


def by_nilearn(root, space="Tiny", **options):
    return first_level_from_bids(root, "fossils", space, derivatives_folder=DERIVATIVE, **options)


def by_pybids(root, name, space="Tiny"):
    """Walk a shipped model; give the outputs of its last node."""
    from bids import BIDSLayout
    from bids.modeling import BIDSStatsModelsGraph

    model = json.loads((root / f"code/models/{name}_smdl.json").read_text())
    model["Input"]["space"] = [space]
    graph = BIDSStatsModelsGraph(BIDSLayout(root, derivatives=True), model)
    graph.load_collections()
    node, inputs = graph.root_node, None
    while node is not None:
        outputs = node.run(inputs, group_by=node.group_by)
        inputs = [contrast for output in outputs for contrast in output.contrasts]
        node = node.children[0].destination if node.children else None
    return outputs


def test_nilearn_names_the_space_that_does_not_exist(written):
    with pytest.raises(ValueError, match=r"No BOLD files found .*'space', 'Nowhere'"):
        by_nilearn(written, space="Nowhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_events, r"No events\.tsv files found for subject 02 .*'fossils'"),
        (remove_runs, "No BOLD files found for subject 02 .*'fossils'"),
    ],
)
def test_nilearn_names_the_participant_and_can_leave_it_out(copy, spoil, message):
    spoil(copy)
    with pytest.raises(ValueError, match=message):
        by_nilearn(copy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models, *_ = by_nilearn(copy, sub_labels=["01"])
    assert [model.subject_label for model in models] == ["01"]


@pytest.mark.parametrize("name", ["task-fossils", "all"])
def test_pybids_finds_no_image_of_a_space_that_does_not_exist(written, name):
    with pytest.raises(ValueError, match="No functional images that match criteria found"):
        by_pybids(written, name, space="Nowhere")


def test_pybids_says_which_variable_has_no_events(copy):
    remove_events(copy)
    with pytest.raises(ValueError, match="No variable named 'trial_type'"):
        by_pybids(copy, "task-fossils")


@pytest.mark.parametrize("name", ["task-fossils", "all"])
def test_pybids_goes_on_without_a_participant_that_has_no_runs(copy, name):
    remove_runs(copy)
    outputs = by_pybids(copy, name)
    assert len(outputs) == (1 if name == "task-fossils" else 3)
    assert [set(output.metadata["subject"]) for output in outputs] == [{"01"}] * len(outputs)
