"""Prompts as turns of a conversation, through the tokenizer's own template."""

import json
import shutil

import nibabel as nib
import pandas as pd
import pytest

from llm2bids import record, replay
from llm2bids.exceptions import ModelError, UsageError
from llm2bids.model.load import load_model
from llm2bids.model.text import encode
from llm2bids.model.tokenizer import Chat, with_chat

TEMPLATE = (
    "{% for turn in messages %}<s>{{ turn.role }}: {{ turn.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
OPTIONS = {
    "paradigm": "off_on_off",
    "task_labels": ("pathology",),
    "prompts_per_block": 2,
    "tokens_per_prompt": 3,
    "n_participants": 1,
    "progress": False,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.getbasetemp() / "llm2bids-cache"))


def with_template(source, folder, template=TEMPLATE):
    shutil.copytree(source, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return folder


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return with_template(tiny_model_dir("llama"), tmp_path / "chatty")


@pytest.mark.parametrize(
    ("system", "shown"),
    [
        (None, "<s>user: A cat</s><s>assistant:"),
        ("Be kind.", "<s>system: Be kind.</s><s>user: A cat</s><s>assistant:"),
    ],
)
def test_a_prompt_is_a_users_turn(folder, system, shown):
    loaded = with_chat(load_model(folder), Chat(system=system))
    assert loaded.tokenizer.decode(encode(loaded, "A cat")) == shown
    assert loaded.tokenizer.decode(encode(loaded, "A cat", special=False)) == "A cat"


def test_a_prompt_is_the_same_on_every_day(tiny_model_dir, tmp_path):
    template = "{{ strftime_now('%Y-%m-%d') }} {{ date_string }} " + TEMPLATE
    loaded = load_model(with_template(tiny_model_dir("llama"), tmp_path / "dated", template))
    shown = loaded.tokenizer.decode(encode(with_chat(loaded, Chat()), "A cat"))
    assert shown.startswith("2024-07-26 26 Jul 2024 <s>user: A cat")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ messages[-1].content }}", "leaves out what the system says .'Be kind.'.*--system"),
        (
            "{{ raise_exception('no system here') }}",
            "no system here; expected .* after",
        ),
        ("<s>", "leaves out what the"),
        ("{% for %}", "chat template: .*expected"),
    ],
)
def test_a_template_that_loses_a_turn_is_refused(tiny_model_dir, tmp_path, template, says):
    loaded = load_model(with_template(tiny_model_dir("llama"), tmp_path / "odd", template))
    with pytest.raises(ModelError, match=says):
        with_chat(loaded, Chat(system="Be kind."))


def test_a_model_without_a_template_is_no_chat_model(tiny_loaded):
    with pytest.raises(ModelError, match="no chat template"):
        with_chat(tiny_loaded("llama"), Chat())


def test_a_scan_of_a_chat_model(folder, tmp_path):
    """The template is part of each prompt and of no answer, and a replay shows the same."""
    chat = {**OPTIONS, "model": folder, "chat_template": True, "system": "Be kind."}
    plain = record(tmp_path / "plain", model=folder, **OPTIONS)
    shown = record(tmp_path / "chat", **chat)
    tables = {
        dataset.path.name: pd.read_csv(next(dataset.path.rglob("*_events.tsv")), sep="\t")
        for dataset in (plain, shown)
    }
    assert len(tables["plain"]) == len(tables["chat"])
    sidecar = json.loads(next(shown.path.glob("sub-01/func/*_bold.json")).read_text())
    assert sidecar["System"] == "Be kind."
    assert len(sidecar["ChatTemplate"]) == 64
    assert "ChatTemplate" not in next(plain.path.glob("sub-01/func/*_bold.json")).read_text()
    transcript = next(path for path in shown.path.rglob("*.tsv") if "token_id" in path.read_text())
    tokens = pd.read_csv(transcript, sep="\t")["token"].astype(str)
    assert not tokens.str.contains("assistant").any()
    again = replay(tmp_path / "again", transcripts=shown.path, **chat)
    one, other = (
        nib.load(next(dataset.path.glob("sub-01/func/*_bold.nii.gz"))).get_fdata()
        for dataset in (shown, again)
    )
    assert abs(one - other).max() <= 1


@pytest.mark.parametrize("how", ["option", "paradigm"])
def test_system_needs_a_template_and_carried_context_has_none(folder, tmp_path, how):
    if how == "option":
        with pytest.raises(UsageError, match="system 'Hi' without a chat template"):
            record(tmp_path / "d", model=folder, system="Hi", **OPTIONS)
        return
    path = tmp_path / "mine.toml"
    path.write_text(
        'order = "off_on_off"\nbaseline = "offtopic"\n'
        "prompts_per_block = 2\ntokens_per_prompt = 3\n"
        'context = "carry"\nchat_template = true\n[tasks]\npathology = "pathology"\n'
    )
    with pytest.raises(UsageError, match="'carry' and a chat template"):
        record(tmp_path / "d", model=folder, **{**OPTIONS, "paradigm": path})
