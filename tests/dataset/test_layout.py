from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.dataset.layout import Entities, build_path, check_label, parse_path
from llm2bids.exceptions import DatasetError

labels = st.text("abzABZ0189", min_size=1, max_size=6)
extensions = st.sampled_from([".nii.gz", ".nii", ".json", ".tsv", ".tsv.gz"])


@st.composite
def entities(draw):
    owner = draw(st.sampled_from(["sub", "tpl", None]))
    chosen = {} if owner is None else {owner: draw(labels)}
    for key in ("task", "space", "atlas", "label", "desc", "stat"):
        value = draw(st.none() | labels)
        if value is not None:
            chosen[key] = value
    return Entities(
        **chosen,
        run=draw(st.none() | st.integers(1, 500)),
        datatype=None if owner is None else draw(st.sampled_from(["func", "anat", None])),
        suffix=draw(labels),
        extension=draw(extensions),
    )


@given(entities())
def test_entities_path_entities(wanted):
    path = build_path(wanted)
    assert parse_path(path) == wanted
    assert build_path(parse_path(str(path))) == path


def test_entities_come_in_the_order_of_the_schema():
    from bidsschematools.schema import load_schema

    schema = load_schema()
    order = [schema.objects.entities[name].name for name in schema.rules.entities]
    full = Entities(
        sub="1", task="a", run=1, space="b", atlas="c", label="d", desc="e", datatype="func",
        suffix="bold", extension=".nii.gz",
    )  # fmt: skip
    ranks = [order.index(key) for key in full.labels()]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("label", "better"), [("off_on", "offOn"), ("a-b c", "aBC"), ("Größe", "GrE")]
)
def test_label_message_says_what_to_write(label, better):
    with pytest.raises(DatasetError, match=f"task label '{label}'.*write '{better}' instead"):
        check_label(label, what="task")


def test_label_of_nothing():
    with pytest.raises(DatasetError, match="give it a name"):
        check_label("_", what="space")
    with pytest.raises(DatasetError, match="sub label"):
        Entities(sub="", suffix="bold", extension=".nii")


@pytest.mark.parametrize(
    "path",
    [
        "sub-01/func/sub-02_task-a_bold.nii.gz",
        "sub-01/func/task-a_sub-01_bold.nii.gz",
        "sub-01/func/sub-01_sub-01_bold.nii.gz",
        "sub-01/func/sub-01_run-01_bold.nii.gz",
        "sub-01/func/sub-01_run-x_bold.nii.gz",
        "sub-01/func/sub-01_acq-x_bold.nii.gz",
        "../sub-01/func/sub-01_task-a_bold.nii.gz",
        "README.md/x/y/z",
        "sub-01/func/.sub-01_bold.nii.gz.part",
    ],
)
def test_foreign_names_are_refused(path):
    with pytest.raises(DatasetError, match="not a file name of this dataset"):
        parse_path(PurePosixPath(path))
