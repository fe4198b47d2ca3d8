"""A BIDS filter file chooses runs as fMRIPrep would, and is refused where it says nothing."""

import json

import pytest

from llm2bids.dataset.bids_filter import filtered_runs, read_bids_filter
from llm2bids.dataset.read import open_dataset
from llm2bids.exceptions import UsageError


@pytest.fixture(scope="module")
def two_runs(recorded, tmp_path_factory):
    """Three participants, three tasks of two runs each."""
    root = tmp_path_factory.mktemp("filter") / "bids"
    return open_dataset(recorded.write_dataset(root, n_participants=3, n_runs=2))


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ({"task": "tea"}, {(label, "tea", run) for label in ("01", "02", "03") for run in (1, 2)}),
        ({"task": ["tea", "milk"], "run": 2, "subject": "02"},
         {("02", "tea", 2), ("02", "milk", 2)}),
        ({"run": "1", "subject": ["01", "03"], "task": "cocoa", "session": None},
         {("01", "cocoa", 1), ("03", "cocoa", 1)}),
        ({"run": "*", "task": "^[tm]", "regex_search": True, "subject": "03"},
         {("03", t, run) for t in ("tea", "milk") for run in (1, 2)}),
        ({"datatype": "func", "suffix": "bold", "task": "milk", "subject": "01", "run": [1]},
         {("01", "milk", 1)}),
    ],
)  # fmt: skip
def test_runs_are_those_that_pybids_finds(two_runs, tmp_path, filters, chosen):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"bold": filters}))
    runs = filtered_runs(two_runs, read_bids_filter(path))
    assert {(run.participant_label, run.task, run.run) for run in runs} == chosen
    assert len(runs) == len(chosen)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"participant": "01"}, r"participant: no entity of pybids; pybids calls it subject"),
        ({"Task": "tea"}, r"Task: no entity of pybids; expected some of .*task"),
        ({"RepetitionTime": 1}, r"RepetitionTime: no entity"),
        ({"task": ["tea", "ten"]}, r'task: "ten" matches no run of .*; there are cocoa, milk, tea'),
        ({"subject": "sub-01"}, r'subject: "sub-01" matches no run of .*; there are 01, 02, 03'),
        ({"session": "1"}, r'session: "1" matches no run .*none with this entity'),
        ({"run": None}, r"run: null matches no run"),
        ({"suffix": "T1w"}, r'suffix: "T1w" matches no run'),
    ],
)
def test_what_matches_nothing_is_named(two_runs, filters, message):
    with pytest.raises(UsageError, match=message):
        filtered_runs(two_runs, filters)


def test_values_that_never_meet(recorded, tmp_path):
    root = recorded.write_dataset(tmp_path / "bids", n_participants=2, without=[(1, "tea")])
    with pytest.raises(UsageError, match="all of them together match none"):
        filtered_runs(open_dataset(root), {"subject": "01", "task": "tea"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "not readable as JSON"),
        ("[]", "no filters of bold; expected a file like"),
        ('{"task": "tea"}', "no filters of bold"),
        ('{"bold": "tea"}', "no filters of bold"),
        ('{"bold": {"task": "tea"}, "t1w": {}}', "found filters of t1w; only bold"),
        ('{"bold": {"run": {"from": 1}}}', r"run: found \{\"from\": 1\}"),
        ('{"bold": {"run": [1, null]}}', "run: found"),
        ('{"bold": {"run": 1.5}}', r"run: found 1\.5"),
    ],
)
def test_a_file_that_is_no_filter_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "filter.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_bids_filter(path)
    assert str(path) in str(caught.value)
