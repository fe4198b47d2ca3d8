"""Text to tokens and back, as the model's own tokenizer does it, and which are of which word."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from llm2bids.exceptions import RecordingError
from llm2bids.model.load import LoadedModel


def encode(loaded: LoadedModel, text: str, *, special: bool = True) -> list[int]:
    """Tokenize a text as the model's tokenizer does, without an end-of-text token at the end.

    A prompt (`special`) begins with the tokenizer's special tokens, or is a turn of its chat
    template.
    """
    if special and loaded.chat is not None:
        text = loaded.chat.render(loaded.tokenizer, text)  # has all special tokens
        special = False
    ids = [int(token) for token in loaded.tokenizer(text, add_special_tokens=special)["input_ids"]]
    if special and len(ids) > 1 and ids[-1] in loaded.end_token_ids:
        ids.pop()
    if not ids:
        raise RecordingError(f"text {text[:40]!r}: no token in it; expected at least one")
    return ids


def decode(loaded: LoadedModel, token_ids: npt.NDArray[np.int64]) -> list[str]:
    """Spell tokens (n_tokens,) one by one; part of a character is shown as U+FFFD."""
    texts = loaded.tokenizer.batch_decode(token_ids[:, None])
    return [str(text) for text in texts]


@dataclass(frozen=True, kw_only=True, eq=False)
class WordTokens:
    """A text in tokens, and which of them are of which word."""

    token_ids: npt.NDArray[np.int64]  # (n_tokens,)
    # (n_words, n_tokens): part of each token that is of a word; columns sum to 1. A token of blanks
    # is of the word after it.
    share: csr_array

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """First token of each word, (n_words,)."""
        return np.minimum.reduceat(self.share.indices, self.share.indptr[:-1]).astype(np.int64)

    @property
    def last(self) -> npt.NDArray[np.int64]:
        """Token at which each word has been read, (n_words,)."""
        return np.maximum.reduceat(self.share.indices, self.share.indptr[:-1]).astype(np.int64)


def word_tokens(
    loaded: LoadedModel, text: str, spans: Sequence[tuple[int, int]], *, name: str
) -> WordTokens:
    """Tokenize a text, without special tokens; spans: start and end of each word in it."""
    tokenizer = loaded.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise RecordingError(
            f"{loaded.name}: its tokenizer ({type(tokenizer).__name__}) does not say where in the "
            "text its tokens are; expected a fast tokenizer (tokenizer.json)"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    token_ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    of_sign = np.full(len(text) + 1, -1)
    for word, (start, end) in enumerate(spans):
        of_sign[start:end] = word
    last = len(spans) - 1
    entries = []
    for token, (start, end) in enumerate(encoded["offset_mapping"]):
        signs = of_sign[start : max(end, start + 1)]
        words, counts = np.unique(signs[signs >= 0], return_counts=True)
        if not len(words):  # blanks: of the word after them
            after = of_sign[start:]
            after = after[after >= 0]
            words, counts = np.array([after[0] if len(after) else last]), np.array([1])
        entries += [
            (word, token, count / counts.sum()) for word, count in zip(words, counts, strict=True)
        ]
    words, tokens, shares = (np.array(column) for column in zip(*entries, strict=True))
    share = csr_array((shares, (words, tokens)), shape=(len(spans), len(token_ids)))
    share.sort_indices()
    if (without := np.flatnonzero(np.diff(share.indptr) == 0)).size:
        start, end = spans[without[0]]
        raise RecordingError(
            f"{name}: word {without[0] + 1} ({text[start:end]!r}) has no token in the vocabulary "
            f"of {loaded.name}; leave it out, or write it in signs that the model knows"
        )
    n_known = loaded.model.get_input_embeddings().num_embeddings
    if token_ids.max() >= n_known:
        raise RecordingError(
            f"{name}: token id {token_ids.max()}; {loaded.name} knows 0 to {n_known - 1}"
        )
    return WordTokens(token_ids=token_ids, share=share)


def lead_in(loaded: LoadedModel) -> list[int]:
    """Choose the tokens before a text that are read and never recorded.

    The first token of a context is an attention sink, hundreds of times larger than the others: it
    must not be a word.
    """
    tokenizer = loaded.tokenizer
    with_special = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(1, len(with_special) - len(plain) + 1):
        if with_special[start : start + len(plain)] == plain:
            return [int(token) for token in with_special[:start]]
    n_known = loaded.model.get_input_embeddings().num_embeddings
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None and token < n_known:
            return [int(token)]
    return encode(loaded, "\n", special=False)
