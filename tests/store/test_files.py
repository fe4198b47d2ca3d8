"""Which files are data, and what stays of what was added to a JSON file."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llm2bids
from llm2bids.exceptions import DatasetError
from llm2bids.store.files import data_files, inside, walk_files
from llm2bids.store.json import read_json, to_json, with_own_keys

PACKAGE = Path(llm2bids.__file__).parent
LISTS_OTHERWISE = {
    *("store/files.py", "paradigm/load.py", "model/location.py", "model/tokenizer.py"),
    *("model/dequantize.py", "model/bake.py", "scan/simulate.py", "dataset/write.py"),
    *("dataset/resume.py", "dataset/shard.py", "inference/statmap.py"),
    *("recording/stimuli.py", "recording/localizers.py"),
}
"""Files that list their own folders, ask whether a folder is empty, or read other people's folders,
leaving out dot files themselves."""


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.tsv", "a.tsv", "._a.tsv", ".git/a.tsv", "sub-01/c.tsv", "sub-01/._c.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.tsv").symlink_to("nowhere")
    (tmp_path / "folder.tsv").mkdir()
    return tmp_path


def test_files_and_links_are_listed_and_nothing_that_begins_with_a_dot(folder):
    assert names(data_files(folder, "*.tsv"), folder) == ["a.tsv", "b.tsv", "link.tsv"]
    assert names(data_files(folder, "*/*.tsv"), folder) == ["sub-01/c.tsv"]
    expected = ["a.tsv", "b.tsv", "link.tsv", "sub-01/c.tsv"]
    assert names(data_files(folder, "**/*.tsv"), folder) == expected
    assert names(walk_files(folder), folder) == expected


def test_data_are_listed_by_one_function():
    listing = re.compile(r"\.r?glob\(|\.iterdir\(|listdir\(|scandir\(|os\.walk\(")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if listing.search(path.read_text(encoding="utf-8"))
    }
    assert found <= LISTS_OTHERWISE


def test_paths_stay_within(folder):
    root = folder / "sub-01"
    assert inside(root, root / "c.tsv") == root / "c.tsv"
    (root / "out").symlink_to("/etc")
    for path in (root / "../a.tsv", root / "out/passwd"):
        with pytest.raises(DatasetError, match="leads out of the dataset"):
            inside(root, path)


keys = st.text(st.characters(codec="ascii"), max_size=3)
objects = st.recursive(
    st.dictionaries(keys, st.integers(), max_size=3),
    lambda inner: st.dictionaries(keys, inner | st.integers(), max_size=3),
    max_leaves=8,
)


@given(new=objects, old=objects)
def test_own_keys_are_added_and_ours_are_ours(new, old):
    merged = with_own_keys(new, old)
    assert with_own_keys(new, merged) == merged
    assert [key for key in merged if key in old] == list(old)
    assert merged.keys() == new.keys() | old.keys()
    assert all(merged[key] == old[key] for key in old.keys() - new.keys())
    assert with_own_keys(new, new) == new


@given(content=objects)
def test_json_comes_back(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(to_json(content), encoding="utf-8")
    assert read_json(path) == content


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": "\\ud800"}'])
def test_what_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.json: "):
        read_json(tmp_path / "a.json")


def test_a_json_file_holds_an_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(DatasetError, match="found a JSON list, expected an object"):
        read_json(path)
