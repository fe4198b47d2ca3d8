"""A model's tokenizer, and the token ids that end and fill up its texts."""

from pathlib import Path
from typing import Any

from llm2bids.exceptions import ModelError
from llm2bids.model.place import Place

_END_TOKENS = frozenset(("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"))
"""Special tokens that end a text by their name, whatever a configuration says."""

_FILES = ("tokenizer*", "vocab*", "*.model", "merges.txt", "*.tiktoken")
"""Names of the files that a tokenizer can be read from."""


def load_tokenizer(place: Place) -> Any:
    """Load a tokenizer that pads on the left; what has none, or an empty one, is refused."""
    from transformers import AutoTokenizer

    folder = Path(place.path)
    if place.weights is not None and not any(list(folder.glob(name)) for name in _FILES):
        # some versions of transformers make one up that knows a few special tokens
        raise ModelError(
            f"model {place.source}: no usable tokenizer (no file of one); expected tokenizer.json "
            "beside the weights, as `tokenizer.save_pretrained(folder)` writes"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.path, **place.keywords)
    except Exception as error:  # the tokenizers library raises plain exceptions
        if place.weights is None:
            raise
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"model {place.source}: no usable tokenizer ({reason}); expected tokenizer.json beside "
            "the weights, as `tokenizer.save_pretrained(folder)` writes"
        ) from error
    if len(tokenizer) == 0 or not tokenizer("a b")["input_ids"]:
        raise ModelError(
            f"model {place.source}: its tokenizer is empty; expected tokenizer.json beside the "
            "weights, as `tokenizer.save_pretrained(folder)` writes"
        )
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
    # A chat model's end of turn is not the only token that ends a text.
    ids = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    ends |= {token_id for token, token_id in ids if token in _END_TOKENS}
    end = sorted(ends)
    fallback = (tokenizer.pad_token_id, getattr(config, "pad_token_id", None), *end, 0)
    model.generation_config = GenerationConfig(
        bos_token_id=getattr(old, "bos_token_id", None),
        eos_token_id=end or None,
        pad_token_id=next(value for value in fallback if value is not None),
        use_cache=True,
    )
