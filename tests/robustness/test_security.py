"""Nobody gets in: no code from files, no path out of the dataset, no network unasked."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from llm2bids import open_dataset
from llm2bids.cli.main import build_parser, main
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError, ModelError, ParadigmError
from llm2bids.model.load import load_model
from llm2bids.paradigm.load import load_paradigm
from llm2bids.paradigm.prompts import read_bank
from llm2bids.scan.answers import read_answers

OPTIONS = ["-q", "--device", "cpu", "--task", "pathology", "--prompts-per-block", "2"]
OPTIONS += ["--tokens-per-prompt", "1", "--participants", "1", "--sites", "residual"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Evil:
    """Pickled, it makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.getbasetemp() / "llm2bids-cache"))


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return Path(shutil.copytree(tiny_model_dir("llama"), tmp_path / "model"))


@pytest.fixture(scope="module")
def scanned(tiny_model_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("secure") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert main(["record", str(path), "--model", str(tiny_model_dir("llama")), *OPTIONS]) == 0
    return path


@pytest.fixture
def sent(scanned, tmp_path):
    """A copy of a dataset as somebody else might send it, changed."""
    return Path(shutil.copytree(scanned, tmp_path / "sent"))


# weights


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_folder_with_pickles_only_is_refused_unopened(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(tmp_path / "opened")))
    with pytest.raises(ModelError, match=rf"pickle \({name}\), which can run code.*save_pretr"):
        load_model(folder)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    "shard", ["pytorch_model.bin", "../outside.safetensors", "/etc/x.safetensors", 3]
)
def test_an_index_that_names_other_files_is_refused(folder, tmp_path, shard):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "opened")))
    index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index\.json: names .*expected \*\.safetensors files"):
        load_model(folder)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="not an index of weights"):
        load_model(folder)


def in_hub_cache(folder: Path, tmp_path: Path) -> dict[str, str]:
    """Lay a model out as huggingface_hub's cache does; give the environment that finds it."""
    repository = tmp_path / "hub" / "models--someone--thing"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    return {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}


def test_a_hub_model_with_pickles_only_is_refused_with_the_way_round(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "opened")))
    done = subprocess.run(
        [sys.executable, "-m", "llm2bids.cli.main", "sites", "--model", "someone/thing", "-q"],
        env=in_hub_cache(folder, tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "weights only as pickle" in done.stderr
    assert "save_pretrained" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "opened").exists()


def test_code_of_a_model_is_off_unless_asked_for():
    parser = build_parser()
    for command in ("record", "replay", "sites", "null"):
        more = {"replay": ["x", "--transcripts", "y"], "sites": []}.get(command, ["x"])
        more = [*more, "y"] if command == "null" else more
        assert not parser.parse_args([command, *more]).trust_remote_code
        assert parser.parse_args([command, *more, "--trust-remote-code"]).trust_remote_code


def test_code_of_a_model_that_was_asked_for_is_recorded(folder, scanned, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    argv = ["record", str(tmp_path / "d"), "--model", str(folder), *OPTIONS]
    assert main(argv) == 1
    assert not (tmp_path / "d").exists()
    assert main([*argv, "--trust-remote-code"]) == 0
    assert open_dataset(tmp_path / "d").settings["trust_remote_code"] is True
    assert open_dataset(scanned).settings["trust_remote_code"] is False


# labels and ids


@pytest.mark.parametrize("label", ["../x", "a/b", "a b", "..", "", "é"])
def test_labels_of_a_paradigm_cannot_be_paths(tmp_path, label):
    text = 'order = "off_on_off"\nbaseline = "offtopic"\nprompts_per_block = 2\n'
    text += f"tokens_per_prompt = 1\n[tasks]\n{json.dumps(label)} = 'pathology'\n"
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ParadigmError, match="expected a BIDS label"):
        load_paradigm(tmp_path / "p.toml")


@pytest.mark.parametrize("label", ["../x", "a/b", "/etc"])
def test_a_space_label_cannot_be_a_path(tiny_model_dir, tmp_path, label, capsys):
    argv = ["record", str(tmp_path / "in" / "d"), "--model", str(tiny_model_dir("llama"))]
    assert main([*argv, *OPTIONS, "--space-label", label]) == 1
    assert "is not a BIDS label" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.nii.gz"))


@pytest.mark.parametrize("participant", ["../x", "sub-../../x", "sub-01/..", "sub-é", "sub-"])
def test_participants_that_are_read_back_cannot_be_paths(sent, participant):
    table = pd.read_csv(sent / "participants.tsv", sep="\t", dtype="str")
    table.loc[0, "participant_id"] = participant
    table.to_csv(sent / "participants.tsv", sep="\t", index=False)
    with pytest.raises(DatasetError, match=r"participants\.tsv: participant_id"):
        open_dataset(sent)


@pytest.mark.parametrize(
    "tasks", ['"../x" = "b"', 'a = "../x"', 'a = { "../x" = "b" }', "a = 3", 'a = { b = "../x" }']
)
def test_tasks_that_are_read_back_cannot_be_paths(sent, tasks):
    path = sent / "code/paradigm.toml"
    path.write_text(re.sub(r"\[tasks\].*", f"[tasks]\n{tasks}\n", path.read_text(), flags=re.S))
    shutil.rmtree(sent / "code/checksums")  # who changes a file can change its checksum
    for opened in (open_dataset, DatasetWriter.open):
        with pytest.raises(ParadigmError, match=r"BIDS label|expected a bank"):
            opened(sent)


def test_a_space_label_that_is_read_back_cannot_be_a_path(sent):
    path = sent / "code/llm2bids_settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "space_label": "../../x"}))
    shutil.rmtree(sent / "code/checksums")  # who changes a file can change its checksum
    for opened in (open_dataset, DatasetWriter.open):
        with pytest.raises(DatasetError, match="not allowed by BIDS"):
            opened(sent)


@pytest.mark.parametrize("prompt_id", ["a\0b", "a\x1bb", "a\u202eb", "a b"])
def test_prompt_ids_are_printable_names(tmp_path, prompt_id):
    path = tmp_path / "bank.tsv"
    path.write_text(f"prompt_id\tcondition\ttopic\ttext\n{prompt_id}\ta\tb\tc\n", "utf-8")
    with pytest.raises(ParadigmError, match=r"line 2: column 'prompt_id'"):
        read_bank(path)


def test_a_zero_byte_in_a_prompt_is_refused(tmp_path):
    path = tmp_path / "bank.tsv"
    path.write_text("prompt_id\tcondition\ttopic\ttext\np\ta\tb\tc\0d\n")
    with pytest.raises(ParadigmError, match=r"line 2: found a zero byte"):
        read_bank(path)


# links


PLACES = (
    "participants.tsv",
    "code/llm2bids_settings.json",
    "code/paradigm.toml",
    "sub-01/func/sub-01_task-pathology_bold.nii.gz",
    "derivatives/llm2bids/sub-01/func/sub-01_task-pathology_desc-transcript_tokens.tsv",
)


@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_is_a_link_out_of_the_dataset_is_refused(sent, tmp_path, place):
    shutil.move(sent / place, tmp_path / "outside")
    (sent / place).symlink_to(tmp_path / "outside")
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        open_dataset(sent)


def test_stimuli_and_answers_that_are_links_are_refused(sent, tmp_path):
    stimuli = sent / "stimuli/pathology.tsv"
    shutil.move(stimuli, tmp_path / "outside.tsv")
    stimuli.symlink_to(tmp_path / "outside.tsv")
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        _ = open_dataset(sent).prompts
    tokens = sorted(sent.glob("derivatives/llm2bids/sub-*/func/*_tokens.tsv"))[0]
    shutil.move(tokens, tmp_path / "tokens.tsv")
    tokens.symlink_to(tmp_path / "tokens.tsv")
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        read_answers(sent)


def test_a_link_within_the_dataset_is_followed(sent):
    """DataLad keeps the contents of files in a folder of the dataset, and links to it."""
    path = sent / "sub-01/func/sub-01_task-pathology_bold.nii.gz"
    (sent / ".git").mkdir()
    shutil.move(path, sent / ".git/object")
    path.symlink_to(sent / ".git/object")
    dataset = open_dataset(sent)
    assert dataset.values(dataset.runs[0]).shape[1] == dataset.space.n_units


def test_nothing_outside_is_removed_through_a_link(sent, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    mine = outside / "sub-09_task-pathology_bold.json"
    mine.write_text("{}")
    (sent / "sub-09").mkdir()
    (sent / "sub-09/func").symlink_to(outside)
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        DatasetWriter.open(sent)
    assert mine.exists()
    assert not (sent / ".llm2bids/commit.json").exists()


@pytest.mark.parametrize("name", [".llm2bids", ".llm2bids/lock", ".llm2bids/staging"])
def test_nothing_outside_is_changed_through_the_hidden_folder(sent, tmp_path, name):
    outside = tmp_path / "outside"
    (outside / "staging").mkdir(parents=True)
    (outside / "staging/mine").write_text("mine")
    (outside / "lock").write_text("mine")
    shutil.rmtree(sent / ".llm2bids", ignore_errors=True)
    if "/" in name:
        (sent / ".llm2bids").mkdir()
    targets = {".llm2bids": outside, ".llm2bids/lock": outside / "lock"}
    (sent / name).symlink_to(targets.get(name, outside / "staging"))
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        DatasetWriter.open(sent)
    assert (outside / "staging/mine").read_text() == (outside / "lock").read_text() == "mine"


def test_runs_are_not_written_through_a_link(sent, tiny_model_dir, tmp_path, capsys):
    (tmp_path / "outside").mkdir()
    (sent / "sub-02").symlink_to(tmp_path / "outside")
    argv = ["record", str(sent), "--model", str(tiny_model_dir("llama")), *OPTIONS]
    argv[argv.index("--participants") + 1] = "2"
    assert main(argv) == 1
    assert "leads out of the dataset" in capsys.readouterr().err
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("name", ["put", "remove"])
@pytest.mark.parametrize("place", ["../../mine", "../../../mine", "/mine"])
def test_a_journal_cannot_reach_out_of_the_dataset(sent, tmp_path, name, place):
    """What a cut-off commit was about to do is read back; it may name the dataset's files only."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    places = [str(mine) if place == "/mine" else place]
    (sent / ".llm2bids/staging/a/b").mkdir(parents=True)
    journal = {"put": [], "remove": [], name: places}
    (sent / ".llm2bids/commit.json").write_text(json.dumps(journal))
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        DatasetWriter.open(sent)
    assert mine.read_text() == "mine"


# network


NO_NETWORK = """
import socket, sys
def blocked(*args, **kwargs):
    sys.stderr.write(f"NETWORK {args}\\n")
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = blocked
from llm2bids.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def without_network(*argv: str) -> subprocess.CompletedProcess[str]:
    """Call the command line where every connection is written down and refused."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS"))}
    return subprocess.run(
        [sys.executable, "-c", NO_NETWORK, *argv], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_embedded_model_needs_no_network(tmp_path):
    done = without_network("record", str(tmp_path / "d"), *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert len(open_dataset(tmp_path / "d").runs) == 1


def test_a_folder_needs_no_network(tiny_model_dir):
    done = without_network("sites", "-q", "--model", str(tiny_model_dir("llama")))
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr


@pytest.mark.slow
def test_a_hub_name_says_that_there_is_no_network():
    done = without_network("sites", "-q", "--model", "nobody/no-such-model-here")
    assert done.returncode == 1
    assert "NETWORK" in done.stderr  # the tests see what goes on the network
    assert "the hub cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
