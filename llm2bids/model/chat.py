"""Chat models: a prompt shown as a user's turn, through the tokenizer's own template."""

import datetime
import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llm2bids.exceptions import ModelError

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

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
