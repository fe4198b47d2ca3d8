"""The options of a scan: verbs, command line, settings and the reference page take them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.exceptions import UsageError
from llm2bids.options import none_or_name, option, stored_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm2bids.model.edit import Edit
    from llm2bids.model.tokenizer import Chat
    from llm2bids.model.units import Site
    from llm2bids.paradigm.task import Paradigm
    from llm2bids.recording.draw import Scan
    from llm2bids.scan.arrangement import Choice


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


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """What is to be scanned and how, as `record`, `replay` and `plan` take it."""

    n_participants: int = option(
        8, "--participants", "number of participants in the end", group="scan"
    )
    model: str | Path = option(
        "embedded",
        "--model",
        "hub name (facebook/galactica-125m), local folder, GGUF file, or 'embedded' "
        "(SmolLM2-135M-Instruct)",
        group="model",
        metavar="NAME_OR_PATH",
    )
    revision: str | None = option(
        None,
        "--revision",
        "branch, tag or commit of a hub model",
        group="model",
        shown="its main branch",
        metavar="REV",
    )
    adapter: str | Path | None = option(
        None,
        "--adapter",
        "folder of an adapter (LoRA and its kin) that is merged into the model's weights; "
        "needs peft: pip install 'llm2bids[adapters]'",
        group="model",
        metavar="PATH",
    )
    chat_template: bool = option(
        False,
        "--chat-template",
        "show each prompt as a user's turn, through the tokenizer's chat template",
        group="model",
    )
    system: str | None = option(
        None,
        "--system",
        "with --chat-template: what the system says first",
        group="model",
        shown="what the template says",
        metavar="TEXT",
    )
    sites: "Sequence[str]" = option(
        ("all",),
        "--sites",
        "modules to record: all, residual, attention, mlp, a pattern on module names "
        "(model.layers.*.mlp.down_proj), or ! and any of these; repeatable, or with commas",
        group="model",
        shown="all",
        action="append",
        metavar="PATTERN",
    )
    device: str = option("auto", "--device", "auto, cpu, cuda, cuda:1, mps", group="model")
    device_map: str | Path | None = option(
        None,
        "--device-map",
        "spread a large model's modules over devices, in place of --device: auto (GPUs, memory, "
        "disk), balanced, sequential, or a JSON file of modules and devices, as accelerate takes",
        group="model",
        metavar="MAP",
    )
    dtype: str = option(
        "auto",
        "--dtype",
        "auto (as stored; float32 of GGUF files), float32, float16 or bfloat16",
        group="model",
    )
    n_workers: int | None = option(
        None,
        "--n-workers",
        "processes that record participants at the same time, with the same bytes whatever their "
        "number; fewer where memory does not serve them, one where a GPU generates",
        group="machine",
        shown="the processors; 1 for a short scan",
    )
    n_threads: int = option(
        1,
        "--n-threads",
        "processor threads that generate together in each worker: for few participants on many "
        "processors; another number rounds otherwise",
        group="machine",
    )
    trust_remote_code: bool = option(
        False,
        "--trust-remote-code",
        "run code that a hub model brings along; it is recorded",
        group="model",
        stored=True,
    )
    paradigm: str | Path = option(
        "off_on_off",
        "--paradigm",
        "off_on_off, multi_task, interleaved, null, or a TOML file",
        group="scan",
        metavar="NAME_OR_FILE",
    )
    task_labels: "Sequence[str] | None" = option(
        None,
        "--task",
        "record only this task of the paradigm; repeatable",
        group="scan",
        shown="all",
        action="append",
        metavar="LABEL",
    )
    prompts_per_block: int | None = option(
        None,
        "--prompts-per-block",
        "in place of the paradigm's number",
        group="scan",
        shown="the paradigm's",
    )
    tokens_per_prompt: int | None = option(
        None,
        "--tokens-per-prompt",
        "volumes of each prompt, in place of the paradigm's number",
        group="scan",
        shown="the paradigm's",
    )
    seed: int = option(
        0, "--seed", "one seed for everything, 0 or more", group="scan", stored=True, type=int
    )
    random_weights: int | None = option(
        None,
        "--random-weights",
        "the same architecture with weights drawn at random, by this seed: the control dataset "
        "of `analyze --control-dataset`; name, sidecars, hash and space say so",
        group="scan",
        shown="off; without a number 0",
        nargs="?",
        const=0,
        metavar="SEED",
    )
    t_r: float | None = option(
        None,
        "--tr",
        "RepetitionTime in seconds, above 0; auto is a power of two",
        group="scan",
        shown="auto",
        parse=read_seconds,
        metavar="SECONDS",
    )
    batch_size: int | None = option(
        None,
        "--batch-size",
        "prompts that run together, of as many runs of a participant as fit whole",
        group="scan",
        shown="64, or fewer where their values take more than 1 GiB; 16 in the calibration; "
        "8 in a replay",
    )
    keep_first: bool = option(
        False,
        "--keep-first",
        "the first generated token of each prompt, which reads the prompt, gives a volume too",
        group="scan",
        stored=True,
    )
    allow_shared_prompts: bool = option(
        False,
        "--allow-shared-prompts",
        "let participants share prompts where a bank is too small (inflates group results)",
        group="scan",
        stored=True,
    )
    volume_dtype: str = option(
        "int16",
        "--volume-dtype",
        "calibrated counts rounded to integers (int16), or without loss (float32)",
        group="volumes",
        stored=True,
        choices=("int16", "float32"),
    )
    compress: bool = option(
        True, "--no-compress", "write series as .nii, not .nii.gz", group="volumes", stored=True
    )
    hrf_model: str | None = option(
        None,
        "--hrf",
        "write the series convolved with a haemodynamic response too (desc-hrf_bold in the "
        "derivative), for tools that insist",
        group="volumes",
        parse=none_or_name,
        choices=("none", "spm", "glover"),
    )
    arrangement: str | Path = option(
        "index",
        "--arrangement",
        "units in a panel: index (native order), functional (similar responses side by side, "
        "learned on prompts that no run shows), random, or as in another dataset (its "
        "folder, or its tpl-*_arrangement.tsv.gz)",
        group="volumes",
        metavar="ORDER",
    )
    localizer_prompts: int | None = option(
        None,
        "--localizer-prompts",
        "with functional arrangement: prompts of each task set aside for learning, 2 or more; "
        "0 learns from off prompts alone",
        group="volumes",
        shown="16",
    )
    space_label: str | None = option(
        None,
        "--space-label",
        "letters and digits",
        group="volumes",
        shown="from the model's name",
        metavar="LABEL",
    )
    edit: "str | Path | None" = option(
        None,
        "--edit",
        "edit file (of `lesion`, `steer` or llm2bids.make_edit): every participant is scanned "
        "twice, as ses-intact and as ses-<its label>, on the same prompts with the same seeds; "
        "prompts that defined the edit are not shown",
        group="model",
        metavar="FILE",
    )
    authors: "Sequence[str]" = option(
        (),
        "--author",
        "author of a new dataset, as in 'Ada Lovelace'; repeatable",
        group="volumes",
        action="append",
        metavar="NAME",
    )

    def choose_chat(self, paradigm: "Paradigm") -> "Chat | None":
        """Decide how prompts are shown: what is asked for goes before what the paradigm says."""
        from llm2bids.model.tokenizer import Chat

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
        from llm2bids.scan.sessions import with_sessions

        edit = self.read_edit()
        scan = draw_scan(
            self.paradigm,
            n_participants=self.n_participants,
            task_labels=self.task_labels,
            seed=self.seed,
            t_r=self.t_r,
            allow_shared_prompts=self.allow_shared_prompts,
            prompts_per_block=self.prompts_per_block,
            tokens_per_prompt=self.tokens_per_prompt,
            localizer_prompts=localizer_prompts,
            excluded=() if edit is None else edit.prompts,
        )
        return scan if edit is None else with_sessions(scan, edit)

    def read_edit(self) -> "Edit | None":
        """Read the edit that was asked for."""
        from llm2bids.model.edit import load_edit

        return None if self.edit is None else load_edit(self.edit)

    def settings(self, scan: "Scan", sites: "Sequence[Site]", model: Any) -> dict[str, Any]:
        """List what must not change within a dataset; `model`: a loaded one, or its outline."""
        from llm2bids.scan.sessions import edit_settings

        # hrf_model is of earlier versions, whose raw series are convolved
        response = {"hrf_series": self.hrf_model} if self.hrf_model else {}
        edit = self.read_edit()
        if edit is not None:
            response |= edit_settings(edit)
        return (
            stored_settings(self)
            | response
            | {
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
        )
