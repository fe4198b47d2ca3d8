"""Words to tokens by their places, with three kinds of tokenizers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import RecordingError
from llm2bids.model.text import lead_in, word_tokens
from llm2bids.recording.story import join_words
from tests.tiny_models import TEXTS

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


def byte_level(tokenizers, words):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return tokenizer, trainer


def sentence_piece(tokenizers, words):
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


def word_piece(tokenizers, words):
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
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer, trainer = request.param(tokenizers, WORDS)
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
    import tokenizers
    from transformers import PreTrainedTokenizerFast

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
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    made.normalizer = tokenizers.normalizers.Replace("\u200b", "")
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    loaded = replace(tiny_loaded("llama"), tokenizer=PreTrainedTokenizerFast(tokenizer_object=made))
    text, places = join_words(pd.Series(["a", "\u200b", "a"]))
    with pytest.raises(RecordingError, match=r"s: word 2 \('\\u200b'\) has no token"):
        word_tokens(loaded, text, places, name="s")


def test_the_lead_in(tiny_loaded):
    """The tokenizer's own beginning, else a special token, else a line break."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    loaded = tiny_loaded("llama")
    assert lead_in(loaded) == [0]  # <s>, which it has but does not add
    backend = loaded.tokenizer.backend_tokenizer
    without = PreTrainedTokenizerFast(tokenizer_object=backend)
    line = without("\n", add_special_tokens=False).input_ids
    assert lead_in(replace(loaded, tokenizer=without)) == line
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.post_processor = TemplateProcessing(
        single="</s> <s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    adding = PreTrainedTokenizerFast(tokenizer_object=copy)
    assert lead_in(replace(loaded, tokenizer=adding)) == [2, 0]
