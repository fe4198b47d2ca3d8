"""Text to tokens and back, as the model's own tokenizer does it."""

import numpy as np
import numpy.typing as npt

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
