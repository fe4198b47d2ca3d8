"""The options of a scan, each once: verbs, command line, settings and the reference page take them.

An option is one field of `ScanOptions`. Its text is the help of its flag, its entry in the
docstrings of the verbs, and its row in ``docs/reference/command-line.md``.
"""

import inspect
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llm2bids.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm2bids.model.chat import Chat
    from llm2bids.model.units import Site
    from llm2bids.paradigm.task import Paradigm
    from llm2bids.recording.draw import Scan
    from llm2bids.scan.arrangement import Choice

_Verb = TypeVar("_Verb", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Argument:
    """How an option is spelled on the command line."""

    flag: str
    text: str
    group: str  # heading in the help
    shown_default: str  # as the reference page has it
    settings: dict[str, Any]  # for `argparse.ArgumentParser.add_argument`
    parse: Callable[[str], Any] | None  # from the text of the flag to the value
    stored: bool  # kept as it is among the settings of a dataset, and compared


def read_seconds(text: str) -> float | None:
    """Read ``--tr``: seconds above 0, or None for ``auto``."""
    if text == "auto":
        return None
    try:
        t_r = float(text)
    except ValueError:
        t_r = 0.0
    if not 0 < t_r < float("inf"):
        raise UsageError(f"--tr {text}: expected 'auto' or a number of seconds above 0")
    return t_r


def _none_or_name(text: str) -> str | None:
    return None if text == "none" else text


def _flag(
    flag: str,
    text: str,
    *,
    group: str,
    shown: str = "",
    stored: bool = False,
    parse: Callable[[str], Any] | None = None,
    **settings: Any,
) -> dict[str, Argument]:
    argument = Argument(
        flag=flag,
        text=text,
        group=group,
        shown_default=shown,
        settings=settings,
        parse=parse,
        stored=stored,
    )
    return {"argument": argument}


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """What is to be scanned and how, as `record`, `replay` and `plan` take it."""

    n_participants: int = field(
        default=8,
        metadata=_flag(
            "--participants",
            "number of participants in the end",
            group="scan",
            type=int,
            metavar="N",
        ),
    )
    model: str | Path = field(
        default="embedded",
        metadata=_flag(
            "--model",
            "hub name (facebook/galactica-125m), local folder, GGUF file, or 'embedded' "
            "(SmolLM2-135M-Instruct)",
            group="model",
            metavar="NAME_OR_PATH",
        ),
    )
    revision: str | None = field(
        default=None,
        metadata=_flag(
            "--revision",
            "branch, tag or commit of a hub model",
            group="model",
            shown="its main branch",
            metavar="REV",
        ),
    )
    adapter: str | Path | None = field(
        default=None,
        metadata=_flag(
            "--adapter",
            "folder of an adapter (LoRA and its kin) that is merged into the model's weights; "
            "needs peft: pip install 'llm2bids[adapters]'",
            group="model",
            shown="none",
            metavar="PATH",
        ),
    )
    chat_template: bool = field(
        default=False,
        metadata=_flag(
            "--chat-template",
            "show each prompt as a user's turn, through the tokenizer's chat template",
            group="model",
        ),
    )
    system: str | None = field(
        default=None,
        metadata=_flag(
            "--system",
            "with --chat-template: what the system says first",
            group="model",
            shown="what the template says",
            metavar="TEXT",
        ),
    )
    sites: "Sequence[str]" = field(
        default=("all",),
        metadata=_flag(
            "--sites",
            "modules to record: all, residual, attention, mlp, a pattern on module names "
            "(model.layers.*.mlp.down_proj), or ! and any of these; repeatable, or with commas",
            group="model",
            shown="all",
            action="append",
            metavar="PATTERN",
        ),
    )
    device: str = field(
        default="auto", metadata=_flag("--device", "auto, cpu, cuda, cuda:1, mps", group="model")
    )
    dtype: str = field(
        default="auto",
        metadata=_flag("--dtype", "auto (as stored), float32, float16 or bfloat16", group="model"),
    )
    trust_remote_code: bool = field(
        default=False,
        metadata=_flag(
            "--trust-remote-code",
            "run code that a hub model brings along; it is recorded",
            group="model",
            stored=True,
        ),
    )
    paradigm: str | Path = field(
        default="off_on_off",
        metadata=_flag(
            "--paradigm",
            "off_on_off, multi_task, interleaved, null, or a TOML file",
            group="scan",
            metavar="NAME_OR_FILE",
        ),
    )
    task_labels: "Sequence[str] | None" = field(
        default=None,
        metadata=_flag(
            "--task",
            "record only this task of the paradigm; repeatable",
            group="scan",
            shown="all",
            action="append",
            metavar="LABEL",
        ),
    )
    prompts_per_block: int | None = field(
        default=None,
        metadata=_flag(
            "--prompts-per-block",
            "in place of the paradigm's number",
            group="scan",
            shown="the paradigm's",
            type=int,
            metavar="N",
        ),
    )
    tokens_per_prompt: int | None = field(
        default=None,
        metadata=_flag(
            "--tokens-per-prompt",
            "volumes of each prompt, in place of the paradigm's number",
            group="scan",
            shown="the paradigm's",
            type=int,
            metavar="N",
        ),
    )
    seed: int = field(
        default=0,
        metadata=_flag(
            "--seed", "one seed for everything, 0 or more", group="scan", stored=True, type=int
        ),
    )
    random_weights: int | None = field(
        default=None,
        metadata=_flag(
            "--random-weights",
            "the same architecture with weights drawn at random, by this seed: the control dataset "
            "of `analyze --control-dataset`; name, sidecars, hash and space say so",
            group="scan",
            shown="off; without a number 0",
            type=int,
            nargs="?",
            const=0,
            metavar="SEED",
        ),
    )
    t_r: float | None = field(
        default=None,
        metadata=_flag(
            "--tr",
            "RepetitionTime in seconds, above 0; auto is a power of two",
            group="scan",
            shown="auto",
            parse=read_seconds,
            metavar="SECONDS",
        ),
    )
    batch_size: int | None = field(
        default=None,
        metadata=_flag(
            "--batch-size",
            "prompts that run together, of as many runs as fit whole",
            group="scan",
            shown="32, of one run; 16 in the calibration; 8 in a replay",
            type=int,
            metavar="N",
        ),
    )
    keep_first: bool = field(
        default=False,
        metadata=_flag(
            "--keep-first",
            "the first generated token of each prompt, which reads the prompt, gives a volume too",
            group="scan",
            stored=True,
        ),
    )
    allow_shared_prompts: bool = field(
        default=False,
        metadata=_flag(
            "--allow-shared-prompts",
            "let participants share prompts where a bank is too small (inflates group results)",
            group="scan",
            stored=True,
        ),
    )
    volume_dtype: str = field(
        default="int16",
        metadata=_flag(
            "--volume-dtype",
            "calibrated counts rounded to integers (int16), or without loss (float32)",
            group="volumes",
            stored=True,
            choices=("int16", "float32"),
        ),
    )
    compress: bool = field(
        default=True,
        metadata=_flag(
            "--no-compress", "write series as .nii, not .nii.gz", group="volumes", stored=True
        ),
    )
    hrf_model: str | None = field(
        default=None,
        metadata=_flag(
            "--hrf",
            "convolve with a haemodynamic response before writing, for tools that insist",
            group="volumes",
            shown="none",
            stored=True,
            parse=_none_or_name,
            choices=("none", "spm", "glover"),
        ),
    )
    arrangement: str | Path = field(
        default="index",
        metadata=_flag(
            "--arrangement",
            "units in a panel: index (native order), functional (similar responses side by side, "
            "learned on prompts that no run shows), random, or as in another dataset (its "
            "folder, or its tpl-*_arrangement.tsv.gz)",
            group="volumes",
            metavar="ORDER",
        ),
    )
    localizer_prompts: int | None = field(
        default=None,
        metadata=_flag(
            "--localizer-prompts",
            "with functional arrangement: prompts of each task set aside for learning, 2 or more; "
            "0 learns from off prompts alone",
            group="volumes",
            shown="16",
            type=int,
            metavar="N",
        ),
    )
    space_label: str | None = field(
        default=None,
        metadata=_flag(
            "--space-label",
            "letters and digits",
            group="volumes",
            shown="from the model's name",
            metavar="LABEL",
        ),
    )
    authors: "Sequence[str]" = field(
        default=(),
        metadata=_flag(
            "--author",
            "author of a new dataset, as in 'Ada Lovelace'; repeatable",
            group="volumes",
            shown="none",
            action="append",
            metavar="NAME",
        ),
    )

    def choose_chat(self, paradigm: "Paradigm") -> "Chat | None":
        """Decide how prompts are shown: what is asked for goes before what the paradigm says."""
        from llm2bids.model.chat import Chat

        system = self.system or paradigm.system or None
        if not (self.chat_template or paradigm.chat_template):
            if system is not None:
                raise UsageError(
                    f"system {system!r} without a chat template: expected --chat-template too (in "
                    "a paradigm: chat_template = true)"
                )
            return None
        if paradigm.context == "carry":
            raise UsageError(
                f"paradigm {paradigm.name}: context 'carry' and a chat template: prompts that go "
                "on from each other are no turns of the template; expected one of the two"
            )
        return Chat(system=system)

    def choose_arrangement(self) -> "Choice":
        """Read the arrangement that was asked for."""
        from llm2bids.scan.arrangement import choose_arrangement

        return choose_arrangement(self.arrangement, self.localizer_prompts)

    def draw(self, *, localizer_prompts: int | None) -> "Scan":
        """Draw the runs of all participants."""
        from llm2bids.recording.draw import draw_scan

        return draw_scan(
            self.paradigm,
            n_participants=self.n_participants,
            task_labels=self.task_labels,
            seed=self.seed,
            t_r=self.t_r,
            allow_shared_prompts=self.allow_shared_prompts,
            prompts_per_block=self.prompts_per_block,
            tokens_per_prompt=self.tokens_per_prompt,
            localizer_prompts=localizer_prompts,
        )

    def settings(self, scan: "Scan", sites: "Sequence[Site]", model: Any) -> dict[str, Any]:
        """List what must not change within a dataset; `model`: a loaded one, or its outline."""
        stored = {
            option.name: getattr(self, option.name)
            for option in fields(self)
            if option.metadata["argument"].stored
        }
        return stored | {
            "model": model.name,
            "dtype": model.dtype,
            "sites": [site.name for site in sites],
            "paradigm": scan.paradigm.name,
            "paradigm_sha256": scan.paradigm_sha256,
            "prompts_per_block": scan.paradigm.prompts_per_block,
            "tokens_per_prompt": scan.paradigm.tokens_per_prompt,
            "t_r": scan.t_r,
            "space_label": self.space_label or model.label,
        }


def arguments() -> dict[str, Argument]:
    """List the arguments of the command line, by the names of their options."""
    return {option.name: _argument(option) for option in fields(ScanOptions)}


def _argument(option: "Field[Any]") -> Argument:
    """Complete an argument with what the option's default says."""
    argument: Argument = option.metadata["argument"]
    settings = {"default": option.default, **argument.settings}
    shown = argument.shown_default or str(option.default)
    if isinstance(option.default, bool):
        settings["action"] = "store_false" if option.default else "store_true"
        shown = "off"
    elif settings.get("action") == "append":
        settings["default"] = None  # argparse would append to the default
    elif argument.parse is not None:
        settings["default"] = shown
    return replace(argument, shown_default=shown, settings=settings)


def takes_scan_options(verb: _Verb) -> _Verb:
    """Spell the options out in the signature and the docstring of a verb that takes them."""
    signature = inspect.signature(verb)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    flat = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=option.type,
        )
        for option in fields(ScanOptions)
    ]
    verb.__signature__ = signature.replace(parameters=[*own, *flat])  # type: ignore[attr-defined]
    entries = "\n".join(
        f"{name}\n    {argument.text[0].upper()}{argument.text[1:]}."
        for name, argument in arguments().items()
    )
    # without its indentation, which Python 3.13 takes off and older ones leave
    text = inspect.cleandoc(verb.__doc__ or "")
    verb.__doc__ = text.replace("**options\n    The options of a scan.", entries)
    return verb
