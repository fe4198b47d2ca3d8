"""Text to tokens and back, as the model's own tokenizer does it."""

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import RecordingError
from llm2bids.model.load import LoadedModel


def encode(loaded: LoadedModel, text: str, *, special: bool = True) -> list[int]:
    """Tokenize a text as the model's tokenizer does by itself.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    text : str
        The text.
    special : bool
        Whether the tokenizer adds its special tokens (beginning of text).

    Returns
    -------
    list of int
        Token ids, without an end-of-text token at the end.

    Raises
    ------
    RecordingError
        If the text has no token.
    """
    ids = [int(token) for token in loaded.tokenizer(text, add_special_tokens=special)["input_ids"]]
    if special and len(ids) > 1 and ids[-1] in loaded.end_token_ids:
        ids.pop()
    if not ids:
        raise RecordingError(f"text {text[:40]!r}: no token in it; expected at least one")
    return ids


def decode(loaded: LoadedModel, token_ids: npt.NDArray[np.int64]) -> list[str]:
    """Spell tokens one by one.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    token_ids : ndarray of int64, shape (n_tokens,)
        Tokens.

    Returns
    -------
    list of str
        Their text; part of a character is shown as U+FFFD.
    """
    texts = loaded.tokenizer.batch_decode(token_ids[:, None])
    return [str(text) for text in texts]
