import json

from llm2bids.dataset.sidecar import template_folder


def test_every_json_file_of_the_template_is_json():
    files = [path for path in template_folder().rglob("*.json")]
    assert len(files) > 10
    for path in files:
        json.loads(path.read_text())


def test_nothing_is_left_blank(written):
    for path in [*written.rglob("*.json"), *written.rglob("*.md"), *written.rglob("CHANGES")]:
        assert "${" not in path.read_text(), path


def test_readme_says_what_matters(written):
    text = (written / "README.md").read_text()
    assert len(text) > 150
    for words in ("not recorded from people", "What a participant is", "of this checkpoint"):
        assert words in text


def test_description_invents_nothing(written):
    about = json.loads((written / "dataset_description.json").read_text())
    assert about["Authors"] == []
    assert about["BIDSVersion"] == "1.11.1"
    derived = json.loads((written / "derivatives/llm2bids/dataset_description.json").read_text())
    assert derived["DatasetLinks"] == {"raw": "../../"}
