"""Prompts as turns of a conversation, through the tokenizer's own template."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tokenizers
import tokenizers.processors
from transformers import PreTrainedTokenizerFast

from llm2bids import record, replay
from llm2bids.exceptions import ModelError, RecordingError, UsageError
from llm2bids.model.load import load_model
from llm2bids.model.tokenizer import Chat, encode, lead_in, with_chat, word_tokens
from llm2bids.recording.story import join_words
from tests.tiny_models import TEXTS

pytestmark = pytest.mark.usefixtures("own_cache")

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
        ("{{ raise_exception('no system here') }}", "no system here; expected .* after"),
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


WORDS = {
    "apostrophes": ["She", "didn't", "see", "O'Neil’s", "do", "n't"],
    "hyphens": ["a", "well-known", "jack-in-the-box", "co-", "op"],
    "numbers": ["3,141", "in", "1984", "and", "2nd", "½"],
    "capitals": ["NASA", "iPhone", "McDonald", "THE", "the"],
    "punctuation": ["Well", ",", "“", "no", "”", "...", "yes!?", "(", "so", ")"],
    "Chinese": ["小", "王子", "说", "：", "你好", "。"],
    "Arabic": ["قَالَ", "الأميرُ", "الصغير", "؟"],
    "signs": ["caf\u00e9", "cafe\u0301", "👩\u200d🚀", "naïve"],
}


def byte_level():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return tokenizer, trainer


def sentence_piece():
    """As Llama 2's: blanks are signs, other signs fall back to bytes."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=26,
        show_progress=False,
    )
    return tokenizer, trainer


def word_piece():
    """As BERT's, without lowering: words are cut before, blanks are gone."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=330, special_tokens=["[UNK]"], show_progress=False
    )
    return tokenizer, trainer


@pytest.fixture(params=[byte_level, sentence_piece, word_piece], ids=lambda make: make.__name__)
def loaded(request, tiny_loaded):
    tokenizer, trainer = request.param()
    tokenizer.train_from_iterator([*TEXTS, " ".join(WORDS["hyphens"])], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    return replace(tiny_loaded("llama"), tokenizer=fast)


@pytest.mark.parametrize("kind", WORDS)
def test_every_word_has_its_tokens(kind, loaded):
    text, places = join_words(pd.Series(WORDS[kind]))
    tokens = word_tokens(loaded, text, places, name="s")
    n_tokens = len(tokens.token_ids)
    assert tokens.share.shape == (len(WORDS[kind]), n_tokens)
    np.testing.assert_allclose(tokens.share.sum(axis=0), np.ones(n_tokens))
    assert tokens.token_ids.tolist() == loaded.tokenizer(text, add_special_tokens=False).input_ids
    assert (np.diff(tokens.first) >= 0).all() and (tokens.first <= tokens.last).all()
    # a word's last token is of it, and the next one is behind it
    offsets = loaded.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    for (start, end), first, last in zip(places, tokens.first, tokens.last, strict=True):
        assert offsets[last][0] < end
        assert last + 1 == n_tokens or offsets[last + 1][0] >= end
        assert offsets[first][0] <= start or first == 0


def test_a_token_of_two_words_counts_by_its_signs(tiny_loaded):
    vocabulary = {"王子说": 0, "小": 1, "好": 2, "。": 3, "<unk>": 4}
    model = tokenizers.models.Unigram([(word, -1.0) for word in vocabulary], unk_id=4)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(model))
    loaded = replace(tiny_loaded("llama"), tokenizer=fast)
    text, places = join_words(pd.Series(["小", "王子", "说", "好", "。"]))
    tokens = word_tokens(loaded, text, places, name="s")
    assert tokens.token_ids.tolist() == [1, 0, 2, 3]
    assert tokens.share.toarray().round(4).tolist() == [
        [1, 0, 0, 0], [0, 0.6667, 0, 0], [0, 0.3333, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1],
    ]  # fmt: skip
    assert tokens.last.tolist() == [0, 1, 1, 2, 3]


def test_a_word_without_a_token_is_refused(tiny_loaded):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    made.normalizer = tokenizers.normalizers.Replace("\u200b", "")
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    loaded = replace(tiny_loaded("llama"), tokenizer=PreTrainedTokenizerFast(tokenizer_object=made))
    text, places = join_words(pd.Series(["a", "\u200b", "a"]))
    with pytest.raises(RecordingError, match=r"s: word 2 \('\\u200b'\) has no token"):
        word_tokens(loaded, text, places, name="s")


def test_the_lead_in(tiny_loaded):
    """The tokenizer's own beginning, else a special token, else a line break."""
    loaded = tiny_loaded("llama")
    assert lead_in(loaded) == [0]  # <s>, which it has but does not add
    backend = loaded.tokenizer.backend_tokenizer
    without = PreTrainedTokenizerFast(tokenizer_object=backend)
    line = without("\n", add_special_tokens=False).input_ids
    assert lead_in(replace(loaded, tokenizer=without)) == line
    copy = tokenizers.Tokenizer.from_str(backend.to_str())
    copy.post_processor = tokenizers.processors.TemplateProcessing(
        single="</s> <s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    adding = PreTrainedTokenizerFast(tokenizer_object=copy)
    assert lead_in(replace(loaded, tokenizer=adding)) == [2, 0]
