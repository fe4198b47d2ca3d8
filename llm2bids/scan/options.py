"""The options of a scan: verbs, command line, settings and the reference page take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.dataset.settings import LONGEST_T_R, SHORTEST_T_R
from llm2bids.exceptions import UsageError
from llm2bids.options import Options, chosen, none_or_name, option, stored_settings

if TYPE_CHECKING:
    from llm2bids.model.edit import Edit
    from llm2bids.model.tokenizer import Chat
    from llm2bids.model.units import Site
    from llm2bids.paradigm.task import Paradigm
    from llm2bids.recording.draw import Scan


def read_seconds(text: str) -> float | None:
    """Read ``--tr``: seconds, or None for ``auto``."""
    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise UsageError(f"--tr {text}: expected 'auto' or a number of seconds") from None


_scan = partial(option, group="scan")
_model = partial(option, group="model")
_machine = partial(option, group="machine")
_volumes = partial(option, group="volumes")


@dataclass(frozen=True, kw_only=True)
class ScanOptions(Options):
    """What is to be scanned and how, as `record`, `replay` and `plan` take it."""

    n_participants: int = _scan(8, "--participants", "number of participants in the end")
    model: str | Path = _model(
        "embedded",
        "--model NAME_OR_PATH",
        "hub name (facebook/galactica-125m), local folder, GGUF file, or 'embedded' "
        "(SmolLM2-135M-Instruct)",
    )
    revision: str | None = _model(
        None, "--revision REV", "branch, tag or commit of a hub model", shown="its main branch"
    )
    adapter: str | Path | None = _model(
        None,
        "--adapter PATH",
        "folder of an adapter (LoRA and its kin) that is merged into the model's weights; "
        "needs peft: pip install 'llm2bids[adapters]'",
    )
    chat_template: bool = _model(
        False,
        "--chat-template",
        "show each prompt as a user's turn, through the tokenizer's chat template",
    )
    system: str | None = _model(
        None,
        "--system TEXT",
        "with --chat-template: what the system says first",
        shown="what the template says",
    )
    sites: Sequence[str] = _model(
        ("all",),
        "--sites PATTERN",
        "modules to record: all, residual, attention, mlp, a pattern on module names "
        "(model.layers.*.mlp.down_proj), or ! and any of these; repeatable, or with commas",
        shown="all",
        action="append",
    )
    device: str = _model("auto", "--device", "auto, cpu, cuda, cuda:1, mps")
    device_map: str | Path | None = _model(
        None,
        "--device-map MAP",
        "spread a large model's modules over devices, in place of --device: auto (GPUs, memory, "
        "disk), balanced, sequential, or a JSON file of modules and devices, as accelerate takes",
    )
    dtype: str = _model(
        "auto", "--dtype", "auto (as stored; float32 of GGUF files), float32, float16 or bfloat16"
    )
    n_workers: int | None = _machine(
        None,
        "--n-workers",
        "processes that record participants at the same time, with the same bytes whatever their "
        "number; fewer where memory does not serve them, one where a GPU generates",
        shown="the processors; 1 for a short scan",
        least=1,
    )
    n_threads: int = _machine(
        1,
        "--n-threads",
        "processor threads that generate together in each worker: for few participants on many "
        "processors; another number rounds otherwise",
        least=1,
    )
    trust_remote_code: bool = _model(
        False,
        "--trust-remote-code",
        "run code that a hub model brings along; it is recorded",
        stored=True,
    )
    paradigm: str | Path = _scan(
        "off_on_off",
        "--paradigm NAME_OR_FILE",
        "off_on_off, multi_task, interleaved, null, or a TOML file",
    )
    task_labels: Sequence[str] | None = _scan(
        None,
        "--task LABEL",
        "record only this task of the paradigm; repeatable",
        shown="all",
        action="append",
    )
    prompts_per_block: int | None = _scan(
        None, "--prompts-per-block", "in place of the paradigm's number", shown="the paradigm's"
    )
    tokens_per_prompt: int | None = _scan(
        None,
        "--tokens-per-prompt",
        "volumes of each prompt, in place of the paradigm's number",
        shown="the paradigm's",
    )
    seed: int = _scan(0, "--seed", "one seed for everything, 0 or more", stored=True, type=int)
    random_weights: int | None = _scan(
        None,
        "--random-weights SEED",
        "the same architecture with weights drawn at random, by this seed: the control dataset "
        "of `analyze --control-dataset`; name, sidecars, hash and space say so",
        shown="off; without a number 0",
        nargs="?",
        const=0,
    )
    t_r: float | None = _scan(
        None,
        "--tr SECONDS",
        "RepetitionTime in seconds, above 0; auto is a power of two",
        shown="auto",
        parse=read_seconds,
        least=SHORTEST_T_R,
        below=LONGEST_T_R,
    )
    batch_size: int | None = _scan(
        None,
        "--batch-size",
        "prompts that run together, of as many runs of a participant as fit whole",
        shown="64, or fewer where their values take more than 1 GiB; 16 in the calibration; "
        "8 in a replay",
        least=1,
    )
    keep_first: bool = _scan(
        False,
        "--keep-first",
        "the first generated token of each prompt, which reads the prompt, gives a volume too",
        stored=True,
    )
    allow_shared_prompts: bool = _scan(
        False,
        "--allow-shared-prompts",
        "let participants share prompts where a bank is too small (inflates group results)",
        stored=True,
    )
    volume_dtype: str = _volumes(
        "int16",
        "--volume-dtype",
        "calibrated counts rounded to integers (int16), or without loss (float32)",
        stored=True,
        choices=("int16", "float32"),
    )
    compress: bool = _volumes(
        True, "--no-compress", "write series as .nii, not .nii.gz", stored=True
    )
    hrf_model: str | None = _volumes(
        None,
        "--hrf",
        "write the series convolved with a haemodynamic response too (desc-hrf_bold in the "
        "derivative), for tools that insist",
        parse=none_or_name,
        choices=("none", "spm", "glover"),
    )
    arrangement: str | Path = _volumes(
        "index",
        "--arrangement ORDER",
        "units in a panel: index (native order), functional (similar responses side by side, "
        "learned on prompts that no run shows), random, or as in another dataset (its "
        "folder, or its tpl-*_arrangement.tsv.gz)",
    )
    localizer_prompts: int | None = _volumes(
        None,
        "--localizer-prompts",
        "with functional arrangement: prompts of each task set aside for learning, 2 or more; "
        "0 learns from off prompts alone",
        shown="16",
        least=0,
    )
    space_label: str | None = _volumes(
        None, "--space-label LABEL", "letters and digits", shown="from the model's name"
    )
    edit: str | Path | None = _model(
        None,
        "--edit FILE",
        "edit file (of `lesion`, `steer` or llm2bids.make_edit): every participant is scanned "
        "twice, as ses-intact and as ses-<its label>, on the same prompts with the same seeds; "
        "prompts that defined the edit are not shown",
    )
    authors: Sequence[str] = _volumes(
        (),
        "--author NAME",
        "author of a new dataset, as in 'Ada Lovelace'; repeatable",
        action="append",
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

    def draw(self, *, localizer_prompts: int | None) -> "Scan":
        """Draw the runs of all participants."""
        from llm2bids.recording.draw import draw_scan
        from llm2bids.scan.sessions import with_sessions

        edit = self.read_edit()
        scan = draw_scan(
            localizer_prompts=localizer_prompts,
            excluded=() if edit is None else edit.prompts,
            **chosen(self, "paradigm", "n_participants", "task_labels", "seed", "t_r"),
            **chosen(self, "allow_shared_prompts", "prompts_per_block", "tokens_per_prompt"),
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
        return {
            **stored_settings(self),
            **response,
            "model": model.name,
            "dtype": model.dtype,
            "sites": [site.name for site in sites],
            "paradigm": scan.paradigm.name,
            **chosen(scan, "paradigm_sha256", "t_r"),
            **chosen(scan.paradigm, "prompts_per_block", "tokens_per_prompt"),
            "space_label": self.space_label or model.label,
        }
