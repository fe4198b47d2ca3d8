"""A model's tokenizer: text to tokens and back, prompts as turns of a chat, tokens of words."""

import datetime
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from llm2bids.exceptions import ModelError, RecordingError, first_line

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.location import Location


def load_tokenizer(location: "Location") -> Any:
    """Load a tokenizer that pads on the left; what has none, or an empty one, is refused."""
    from transformers import AutoTokenizer

    def unusable(reason: str) -> ModelError:
        return ModelError(
            f"model {location.source}: {reason}; expected tokenizer.json beside the weights, as "
            "`tokenizer.save_pretrained(folder)` writes"
        )

    folder = Path(location.path)
    files = ("tokenizer*", "vocab*", "*.model", "merges.txt", "*.tiktoken")
    if not location.is_on_hub and not any(any(folder.glob(name)) for name in files):
        # some versions of transformers make one up that knows a few special tokens
        raise unusable("no usable tokenizer (no file of one)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(location.path, **location.keywords)
    except Exception as error:  # the tokenizers library raises plain exceptions
        if location.is_on_hub:
            raise
        raise unusable(f"no usable tokenizer ({first_line(error)})") from error
    if len(tokenizer) == 0 or not tokenizer("a b")["input_ids"]:
        raise unusable("its tokenizer is empty")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def neutral_generation(model: Any, tokenizer: Any) -> None:
    """Keep the token ids of the generation configuration and nothing else."""
    from transformers import GenerationConfig

    old = getattr(model, "generation_config", None)
    config = model.config.get_text_config()
    ends: set[int] = set()
    for value in (
        getattr(old, "eos_token_id", None),
        getattr(config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        if value is not None:
            ends |= set(value) if isinstance(value, list) else {value}
    # A chat model's end of turn is not the only token that ends a text: some do by their name.
    named = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
    ids = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    ends |= {token_id for token, token_id in ids if token in named}
    end = sorted(ends)
    fallback = (tokenizer.pad_token_id, getattr(config, "pad_token_id", None), *end, 0)
    model.generation_config = GenerationConfig(
        bos_token_id=getattr(old, "bos_token_id", None),
        eos_token_id=end or None,
        pad_token_id=next(value for value in fallback if value is not None),
        use_cache=True,
    )


# Templates that tell the model the date tell it this one: a prompt is the same on every day.
_DATE = datetime.datetime(2024, 7, 26)

_DATED = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """How prompts become turns of a conversation."""

    system: str | None = None  # what the system says first; None leaves it to the template

    def template_sha256(self, tokenizer: Any) -> str:
        """Hash the template: what is around a prompt is part of what was shown."""
        return hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()

    def render(self, tokenizer: Any, text: str) -> str:
        """Write a prompt as the template does, up to where the answer begins."""
        turns = [{"role": "user", "content": text}]
        if self.system is not None:
            turns.insert(0, {"role": "system", "content": self.system})
        template = tokenizer.get_chat_template()
        try:
            rendered = tokenizer.apply_chat_template(
                turns,
                chat_template=_DATED.sub(lambda call: repr(_DATE.strftime(call[2])), template),
                tokenize=False,
                add_generation_prompt=True,
                date_string=_DATE.strftime("%d %b %Y"),
            )
        except Exception as error:  # templates are programs, and raise what they like
            takes = "turn" if self.system is None else "turn after the system's"
            raise ModelError(
                f"chat template: {str(error).strip() or type(error).__name__}; expected one that "
                f"takes a user's {takes}"
            ) from error
        for turn in turns:
            if turn["content"].strip() not in rendered:
                raise ModelError(
                    f"chat template: leaves out what the {turn['role']} says "
                    f"({turn['content'][:40]!r}); expected a template that shows it"
                    + ("; leave --system out" if turn["role"] == "system" else "")
                )
        return str(rendered)


def with_chat(loaded: "LoadedModel", chat: Chat) -> "LoadedModel":
    """Show a model its prompts through its tokenizer's template; one without is refused."""
    if not getattr(loaded.tokenizer, "chat_template", None):
        raise ModelError(
            f"model {loaded.name}: its tokenizer has no chat template, it is no chat model; leave "
            "--chat-template out, or give the model that was trained to chat"
        )
    chat.render(loaded.tokenizer, "a")
    return replace(loaded, chat=chat)


def encode(loaded: "LoadedModel", text: str, *, special: bool = True) -> list[int]:
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


def decode(loaded: "LoadedModel", token_ids: npt.NDArray[np.int64]) -> list[str]:
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
    loaded: "LoadedModel", text: str, spans: Sequence[tuple[int, int]], *, name: str
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
    if token_ids.max() >= loaded.n_vocabulary:
        raise RecordingError(
            f"{name}: token id {token_ids.max()}; {loaded.name} knows 0 to "
            f"{loaded.n_vocabulary - 1}"
        )
    return WordTokens(token_ids=token_ids, share=share)


def lead_in(loaded: "LoadedModel") -> list[int]:
    """Choose the tokens before a text that are read and never recorded.

    The first token of a context is an attention sink, hundreds of times larger than the others: it
    must not be a word.
    """
    if before := beginning(loaded):
        return before
    tokenizer = loaded.tokenizer
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None and token < loaded.n_vocabulary:
            return [int(token)]
    return encode(loaded, "\n", special=False)


def beginning(loaded: "LoadedModel") -> list[int]:
    """List the special tokens that the tokenizer puts before every text."""
    whole = loaded.tokenizer("a")["input_ids"]
    bare = loaded.tokenizer("a", add_special_tokens=False)["input_ids"]
    starts = range(len(whole) - len(bare) + 1)
    start = next((n for n in starts if whole[n : n + len(bare)] == bare), 0)
    return [int(token) for token in whole[:start]]
