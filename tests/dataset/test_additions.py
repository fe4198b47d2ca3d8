"""What users add to a dataset stays; content that is not here, and dot files, are not data."""

import json
import os
import shutil
from pathlib import Path

import pytest

from llm2bids.dataset.check import check_dataset
from llm2bids.dataset.layout import list_bolds
from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError

BOLD = "sub-01/func/sub-01_task-fossils_bold.nii.gz"
EVENTS = BOLD.replace("bold.nii.gz", "events.tsv")
MASK = "derivatives/llm2bids/tpl-Tiny/anat/tpl-Tiny_label-GM_mask.nii.gz"
ANNEX = "../../.git/annex/objects/aa/bb/MD5E-s1--00.nii.gz/MD5E-s1--00.nii.gz"


def add_run(root, synthetic, number, *, overwrite=False):
    design = synthetic.make_design(number)
    with DatasetWriter.open(root, overwrite=overwrite) as writer:
        if not writer.has_run(design):
            writer.write_run(synthetic.make_recording(design), t_r=synthetic.t_r)
        writer.finish_participant(design.participant_label)


def rows(path):
    return [line.split("\t") for line in path.read_text().splitlines()]


@pytest.mark.parametrize("overwrite", [False, True])
def test_own_columns_and_the_order_of_rows_and_columns_stay(changed, synthetic, overwrite):
    path = changed / "participants.tsv"
    header, first, second = rows(path)
    ages = {"participant_id": "age", "sub-01": "034", "sub-02": 'n/a "about 30"'}
    table = [[row[0], ages[row[0]], *row[1:]] for row in (header, second, first)]
    path.write_text("".join("\t".join(row) + "\n" for row in table))
    for number in (3, 4):
        add_run(changed, synthetic, number, overwrite=overwrite)
    now = rows(path)
    assert now[:3] == table
    assert [row[:2] for row in now[3:]] == [["sub-03", "n/a"], ["sub-04", "n/a"]]
    assert [row[-3:] for row in now[3:]] == [["1", "24", "120"]] * 2
    assert check_dataset(changed).faults == ()


def test_a_participant_comes_back_to_its_row_with_its_own_entries(changed, synthetic):
    path = changed / "participants.tsv"
    table = [[*row, value] for row, value in zip(rows(path), ["age", "34", "35"], strict=True)]
    path.write_text("".join("\t".join(row) + "\n" for row in table))
    shutil.rmtree(changed / "sub-01")
    shutil.rmtree(changed / "derivatives/llm2bids/sub-01")
    with pytest.raises(DatasetError, match=r"participants\.tsv: changed after"):
        DatasetWriter.open(changed)
    with DatasetWriter.open(changed, overwrite=True):
        pass
    assert [row[-1] for row in rows(path)] == ["age", "34", "35"]
    add_run(changed, synthetic, 1, overwrite=True)
    assert [row[0] for row in rows(path)] == ["participant_id", "sub-01", "sub-02"]
    assert [row[-1] for row in rows(path)] == ["age", "34", "35"]


OWN = [
    "participants.json",
    "dataset_description.json",
    "T1w.json",
    "task-fossils_bold.json",
    "task-fossils_events.json",
    BOLD.replace(".nii.gz", ".json"),
    "derivatives/llm2bids/sub-01/func/sub-01_task-fossils_desc-confounds_timeseries.json",
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("file", OWN)
def test_own_keys_of_sidecars_stay(changed, synthetic, file, overwrite):
    path = changed / file
    content = json.loads(path.read_text())
    nested = next((key for key, value in content.items() if isinstance(value, dict)), None)
    content = {"Own": ["a", 1], **content, "Last": None}
    if nested:
        content[nested] = {**content[nested], "OwnName": "of mine"}
    path.write_text(json.dumps(content))
    for number in (3, 1):
        add_run(changed, synthetic, number, overwrite=overwrite)
    now = json.loads(path.read_text())
    assert now == content
    assert list(now) == list(content)


def test_a_changed_value_of_ours_is_mended_where_overwriting_is_asked_for(changed, synthetic):
    path = changed / BOLD.replace(".nii.gz", ".json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"Own": 1, **content, "RepetitionTime": 3}))
    add_run(changed, synthetic, 1, overwrite=True)
    assert json.loads(path.read_text()) == {"Own": 1, **content}


def test_own_files_stay(changed, synthetic):
    own = [
        changed / "sub-01/func/sub-01_task-other_physio.tsv.gz",
        changed / "sub-01/func/sub-01_task-votes_desc-mine_mask.nii.gz",
        changed / "task-other_physio.json",
        changed / "sub-02/anat/sub-02_T2w.nii.gz",
        changed / "code/mine.py",
    ]
    for path in own:
        path.write_text("mine")
    (changed / "sub-01/func/sub-01_task-votes_bold.nii.gz").unlink()
    for path in (changed / "sub-02/func").glob("*_bold.nii.gz"):
        path.unlink()
    add_run(changed, synthetic, 3)
    assert [path.read_text() for path in own] == ["mine"] * len(own)
    assert not (changed / "sub-02/anat/sub-02_T1w.nii.gz").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "file", [BOLD, BOLD.replace("bold.nii.gz", "events.tsv"), "participants.tsv", "T1w.json"]
)
def test_links_to_content_that_is_not_here_are_refused_and_kept(changed, file, overwrite):
    (changed / file).unlink()
    (changed / file).symlink_to(ANNEX)
    before = sorted(changed.rglob("*"))
    with pytest.raises(DatasetError, match=rf"{Path(file).name}: .*datalad get"):
        DatasetWriter.open(changed, overwrite=overwrite)
    assert sorted(changed.rglob("*")) == before
    assert (changed / file).readlink() == Path(ANNEX)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/annex/objects/MD5E-s1--00.nii.gz\n", "pointer of git-annex.*datalad get"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS.*git lfs pull"),
    ],
)
@pytest.mark.parametrize(
    "file", [BOLD, "code/llm2bids_settings.json", "participants.tsv", EVENTS, MASK]
)
def test_pointers_are_named_as_such(changed, file, text, message):
    (changed / file).unlink()
    (changed / file).write_text(text)
    with pytest.raises(DatasetError, match=message):
        DatasetWriter.open(changed, overwrite=True)
    if file in ("code/llm2bids_settings.json", "participants.tsv"):
        with pytest.raises(DatasetError, match=message):
            open_dataset(changed)


def test_links_into_the_annex_of_a_repository_around_the_dataset_are_read(changed, tmp_path):
    store = tmp_path / ".git/annex/objects/x.nii.gz"
    store.parent.mkdir(parents=True)
    values = open_dataset(changed).values(open_dataset(changed).runs[0])
    shutil.move(changed / BOLD, store)
    (changed / BOLD).symlink_to(os.path.relpath(store, (changed / BOLD).parent))
    dataset = open_dataset(changed)
    assert (dataset.values(dataset.runs[0]) == values).all()
    elsewhere = tmp_path / "elsewhere.nii.gz"
    shutil.move(store, elsewhere)
    (changed / BOLD).unlink()
    (changed / BOLD).symlink_to(elsewhere)
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        open_dataset(changed)


def test_dot_files_are_never_data(changed, synthetic):
    bolds, prompts = list_bolds(changed), len(open_dataset(changed).prompts)
    files = [path for path in changed.rglob("*") if path.is_file() and path.name[0] != "."]
    for path in files:
        if ".llm2bids" not in path.parts:
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    assert list_bolds(changed) == bolds
    assert len(open_dataset(changed).prompts) == prompts
    assert check_dataset(changed).faults == ()
    add_run(changed, synthetic, 3)
    assert check_dataset(changed).faults == ()


def test_a_new_dataset_goes_beside_dot_files(synthetic, tmp_path):
    (tmp_path / "dataset/.datalad").mkdir(parents=True)
    (tmp_path / "dataset/.gitattributes").touch()
    synthetic.write_dataset(tmp_path / "dataset")
    assert check_dataset(tmp_path / "dataset").faults == ()


def test_a_table_that_a_spreadsheet_saved_is_read(changed, synthetic):
    """With a byte order mark and line ends of Windows."""
    path = changed / "participants.tsv"
    table = [[*row, value] for row, value in zip(rows(path), ["age", "007", "n/a"], strict=True)]
    text = "".join("\t".join(row) + "\r\n" for row in table)
    path.write_bytes(text.encode("utf-8-sig"))
    assert open_dataset(changed).participants["age"].tolist() == ["007", "n/a"]
    add_run(changed, synthetic, 3)
    assert rows(path)[:3] == table
    assert rows(path)[3][-1] == "n/a"
