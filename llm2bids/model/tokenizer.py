"""A model's tokenizer: token ids that end and fill up texts, and prompts as turns of a chat."""

import datetime
import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.exceptions import ModelError
from llm2bids.model.place import Place

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

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


_DATE = datetime.datetime(2024, 7, 26)
"""Templates that tell the model the date tell it this one: a prompt is the same on every day."""

_DATED = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


def _write_date(call: re.Match[str]) -> str:
    return repr(_DATE.strftime(call[2]))


@dataclass(frozen=True, kw_only=True)
class Chat:
    """How prompts become turns of a conversation."""

    system: str | None = None
    """What the system says first; None leaves it to the template."""

    def template_sha256(self, tokenizer: Any) -> str:
        """Hash the template: what is around a prompt is part of what was shown."""
        return hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()

    def render(self, tokenizer: Any, text: str) -> str:
        """Write a prompt as the template does, up to where the answer begins."""
        turns = [{"role": "user", "content": text}]
        if self.system is not None:
            turns.insert(0, {"role": "system", "content": self.system})
        try:
            rendered = tokenizer.apply_chat_template(
                turns,
                chat_template=_DATED.sub(_write_date, tokenizer.get_chat_template()),
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
