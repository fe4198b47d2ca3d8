"""Every llm2bids line of README and docs, run in the order of its page, with a tiny model.

What a page takes for granted (a dataset and its analysis, a map, stories, a human dataset) is
there before its first line. Sizes are made small by options at the end of a line.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import llm2bids
from llm2bids.cli.main import main
from tests.e2e.test_docs import PAGES, ROOT, commands
from tests.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

MODEL = "facebook/galactica-125m"  # a folder of this name; --model takes folders before the hub
NAMES = {
    "embedded": MODEL,
    "MODEL": MODEL,
    "BIDS_DIR": "my-dataset",
    "ANALYSIS_DIR": "my-analysis",
    "OUT_DIR": "my-analysis",
    "OUT": "my-analysis",
    "RECORDED": "my-dataset",
    "ANALYSIS": "my-analysis",
    "demo-dataset/dataset": "my-dataset",
    "slurm.yaml": "local",
}
NOT_RUN = {
    "llm2bids demo": "the embedded model: tests/e2e/test_demo.py",
    '"$label"': "a job of SLURM's array: tests/scan/test_cluster.py",
    "words_smdl.json": "a human dataset: tests/interop/test_fitlins.py",
    "READING": "people who saw words: tests/e2e/test_people.py",
}
SMALL = {
    "record": "--prompts-per-block 3 --tokens-per-prompt 2 --device cpu",
    "replay": "--prompts-per-block 3 --tokens-per-prompt 2 --device cpu",
    "read": "--device cpu",
    "plan": "--participants 2 --prompts-per-block 2 --tokens-per-prompt 2",
    "null": "--groups 3 --group-size 3 --units 60 --n-perm 20",
    "lesion": "--prompts 4 --answer-tokens 2 --draws 2 --shuffled 1 --dose 1",
    "steer": "--n-prompts 4 --n-defining 4 --n-tokens 3 --layers 1 --strengths 2 --n-controls 1",
    "targets": "--draws 3 --n-texts 9 --n-other 3 --n-steps 1 --n-seeds 1 --learning-rates 1e-3",
    "monitor": "--n-prompts 4 --n-defining 4 --n-tokens 2",
}
TAKES_MODEL = {"record", "replay", "read", "sites", "plan"}
CREATES = {"record", "replay", "read"}
WORDS = "The senate of the old republic voted on the new law after a long debate in the forum"


def words(path, **columns):
    table = pd.DataFrame({"word": (WORDS + " . " + WORDS).replace(" .", ".").split()})
    table["onset"] = 4.0 + np.arange(len(table)) * 0.45
    table["duration"] = 0.3
    table = table.assign(**columns)
    table.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
    return table


def text_grid(path, table):
    from praatio import textgrid

    entries = [(row.onset, row.onset + row.duration, row.word) for row in table.itertuples()]
    grid = textgrid.Textgrid()
    end = entries[-1][1] + 2
    grid.addTier(textgrid.IntervalTier("words", entries, 0, end))
    grid.save(str(path), format="short_textgrid", includeBlankSpaces=True)


def human(root, task):
    """Two people of one story, TR 2, 20 volumes."""
    for label in ("a1", "b2"):
        folder = root / f"sub-{label}" / "func"
        folder.mkdir(parents=True)
        image = nib.Nifti1Image(np.zeros((2, 3, 4, 20), dtype=np.int16), np.eye(4))
        image.header.set_zooms((3, 3, 3, 2.0))
        nib.save(image, folder / f"sub-{label}_task-{task}_bold.nii.gz")
        (folder / f"sub-{label}_task-{task}_events.tsv").write_text(
            "onset\tduration\ttrial_type\n0\t4\tmusic\n4\t20\tstory\n"
        )
    about = {"RepetitionTime": 2.0, "TaskName": task}
    (root / f"task-{task}_bold.json").write_text(json.dumps(about))
    (root / "dataset_description.json").write_text('{"Name": "h", "BIDSVersion": "1.8.0"}')


def stories(folder):
    """What pages call WORDS, stories, words/, words.csv, story.TextGrid, and two human datasets."""
    for name in ("WORDS", "stories", "words"):
        (folder / name).mkdir()
        words(folder / name / "pieman.tsv")
        words(folder / name / "legacy.tsv")
    table = words(folder / "words.csv")
    text_grid(folder / "story.TextGrid", table)
    grids = folder / "derivative" / "TextGrids"
    grids.mkdir(parents=True)
    text_grid(grids / "wheretheressmoke.TextGrid", table)
    human(folder / "HUMAN_BIDS", "pieman")
    human(folder / "ds002345", "pieman")
    human(folder / "ds003020", "wheretheressmoke")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A scan of a tiny model, its analysis, an edit, answers, and the model."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        save_tiny_model("llama", Path(MODEL), max_position_embeddings=1024)
        options = shlex.split(SMALL["record"])
        assert (
            main(["record", "my-dataset", "--model", MODEL, "--participants", "3", *options]) == 0
        )
        for level in ("participant", "group"):
            assert main(["analyze", "my-dataset", "my-analysis", level, "-q"]) == 0
        maps = Path("my-analysis/group").glob(
            "*task-pathology*contrast-pathology_stat-z_statmap.nii.gz"
        )
        z_map = next(maps)
        fitlins = Path("my-analysis/node-dataset/contrast-pathology_stat-effect_statmap.nii.gz")
        fitlins.parent.mkdir()
        for path in ("zmap.nii.gz", "z.nii.gz", fitlins):
            shutil.copyfile(z_map, path)
        edit = ["edit", "my-dataset", "mine.json", "--map", "zmap.nii.gz", "--top", "1%"]
        assert main([*edit, "--label", "mine"]) == 0
        recorded = llm2bids.open_dataset("my-dataset")
        tables = [recorded.transcript(run) for run in recorded.runs]
        answers = pd.concat(tables)[["prompt_id", "position", "token_id"]].drop_duplicates(
            ["prompt_id", "position"]
        )
        for name in ("answers.tsv", "transcripts.tsv"):
            answers.to_csv(name, sep="\t", index=False)
        stories(folder)
    return folder


def tutorial(folder):
    """The prompts and the paradigm that the tutorial writes."""
    text = (ROOT / "docs" / "tutorial" / "first-scan.md").read_text()
    table = re.search(r"^```\n(prompt_id\t.*?)^```", text, re.DOTALL | re.MULTILINE)
    toml = re.search(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (folder / "pets.tsv").write_text(table[1])
    (folder / "pets.toml").write_text(toml[1])


def runnable(command, label):
    """The arguments of a line, with what stands for the reader's own put in."""
    arguments = shlex.split(command, comments=True)[1:]
    verb, *rest = arguments
    rest = [NAMES.get(word, word) for word in rest]
    rest = [re.sub(r"^OUT(_DIR)?/", "my-analysis/", word) for word in rest]
    rest = [re.sub(r"^BIDS_DIR/", "my-dataset/", word) for word in rest]
    rest = [word.replace("SmolLM2135M", label) for word in rest]
    if verb in ("record", "replay") and "pets" not in rest:
        rest += ["--participants", "3"]
    if "--n-workers" in rest:
        rest += ["--n-workers", "2"]
    if verb in TAKES_MODEL:
        rest += ["--model", MODEL]
    if "--pca" in rest:  # at most the units of the smallest module
        rest[rest.index("--pca") + 1] = "8"
    if verb == "null" and rest[0] == MODEL:
        rest += ["--runs", "12"]
    small = "" if "pets" in rest else SMALL.get(verb, "")
    return [verb, *rest, *shlex.split(small)]


def each_participant(arguments):
    """The line for each of the participants, where it is for a single one."""
    if "--participant-label" not in arguments or arguments[0] != "record":
        return [arguments]
    place = arguments.index("--participant-label") + 1
    return [[*arguments[:place], label, *arguments[place + 1 :]] for label in ("03", "01", "02")]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(commands(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_commands_of_a_page_run(page, scan, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "reader"
    shutil.copytree(scan, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    tutorial(folder)
    label = llm2bids.open_dataset("my-dataset").space.label
    for command in commands(page):
        if any(part in command for part in NOT_RUN):
            continue
        arguments = runnable(command, label)
        begins = arguments[0] in CREATES and "--participant-label" not in arguments
        if begins:
            shutil.rmtree(arguments[1], ignore_errors=True)
        if arguments[0] == "null":
            shutil.rmtree(arguments[2], ignore_errors=True)
        if arguments[0] == "edit" and "--export-model" not in arguments:
            Path(arguments[2]).unlink(missing_ok=True)
        for called in each_participant(arguments):
            code = main(called)
            assert code == 0, f"{command}\nas: {shlex.join(called)}\n{capsys.readouterr().err}"
            capsys.readouterr()


def test_what_is_not_run_is_in_the_docs():
    lines = "\n".join(line for page in PAGES for line in commands(page))
    assert not [part for part in NOT_RUN if part not in lines]
