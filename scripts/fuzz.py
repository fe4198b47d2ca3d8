"""Spoil valid files and command lines at random, and see that each is read or refused in words.

Every input is a valid one that was spoiled (`fuzz_mutations.py`): bytes flipped, files cut off,
cells swapped, wrong types, odd texts, huge numbers. llm2bids may accept it, or refuse it with an
`Llm2bidsError` (exit code 1 or 2). Anything else is a finding: another exception, a warning about
files that were left half-written, more than a minute, more memory than 8 GB. Findings are printed
with the seed that makes them again.

    .venv/bin/python scripts/fuzz.py --inputs 1000
    .venv/bin/python scripts/fuzz.py --inputs 300 --target paradigm --seed 7
    .venv/bin/python scripts/fuzz.py --target units --only 123
"""

import argparse
import contextlib
import gzip
import io
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import fuzz_mutations as mutations
import nibabel as nib
import numpy as np

from llm2bids.cli import main as cli
from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import Llm2bidsError
from llm2bids.inference.inputs import open_inputs
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.runs import run_design
from llm2bids.paradigm.load import PARADIGMS_FOLDER
from llm2bids.recording.draw import draw_scan
from llm2bids.scan.answers import read_answers

ROOT = Path(__file__).parents[1]
SECONDS = 60
"""Time for one input."""

BANK = "prompt_id\tcondition\ttopic\ttext\n" + "".join(
    f'{bank}{number}\t{bank}\tsome topic\t"Say ""{bank}"" {number} times"\n'
    for bank in ("everyday", "fossils", "votes")
    for number in range(40)
)
PARADIGM = """description = "Off, on, off."
order = "off_on_off"
baseline = "everyday"
prompts_per_block = 3
tokens_per_prompt = 2
n_runs = 1
context = "fresh"
calibration_prompts = 4

[sampling]
do_sample = true
temperature = 0.8
top_k = 40
top_p = 0.95

[tasks]
fossils = "fossils"
votes = { votes = "votes" }

[banks]
everyday = "bank.tsv"
fossils = "bank.tsv"
votes = "bank.tsv"
"""


class TooSlow(BaseException):
    """An input took longer than `SECONDS`; no `except Exception` may catch it."""


class Seeds:
    """Valid inputs: a dataset, a map, a paradigm with its bank, answers, a model."""

    def __init__(self, folder: Path) -> None:
        sys.path.append(str(ROOT))
        from tests.synthetic import FOSSILS
        from tests.tiny_models import save_tiny_model

        self.folder = folder
        self.dataset: Path = FOSSILS.write_dataset(folder / "dataset")
        self.model: Path = save_tiny_model("llama", folder / "model")
        opened = open_dataset(self.dataset)
        self.places = sorted(
            path.relative_to(self.dataset)
            for path in self.dataset.rglob("*")
            if path.is_file() and ".llm2bids" not in path.parts
        )
        self.units = next(p for p in self.places if p.name.endswith("_units.tsv.gz"))
        self.space = next(p for p in self.places if p.name.endswith("_space.json"))
        values = np.random.default_rng(0).normal(0, 2, opened.space.n_units).astype(np.float32)
        image = nib.Nifti1Image(opened.space.to_grid(values), opened.space.affine)
        for name in ("z.nii", "z.nii.gz"):
            nib.save(image, folder / name)
        (folder / "bank.tsv").write_text(BANK)
        (folder / "own.toml").write_text(PARADIGM)
        trials = draw_scan(folder / "own.toml", n_participants=2).designs
        prompts = [trial.prompt.prompt_id for design in trials for trial in design.trials]
        texts = "".join(f"{prompt}\tan answer to it\n" for prompt in prompts)
        tokens = "".join(f"{p}\t{i}\t{i + 5}\n" for p in prompts for i in range(3))
        (folder / "texts.tsv").write_text("prompt_id\tanswer\n" + texts)
        (folder / "tokens.tsv").write_text("prompt_id\tposition\ttoken_id\n" + tokens)


def spoil_file(rng: random.Random, path: Path) -> None:
    """Spoil a file in place, inside its compression as often as outside."""
    name = path.name.removesuffix(".gz")
    kind = {".json": "json", ".tsv": "tsv", ".toml": "toml"}.get(Path(name).suffix, "bytes")
    if path.name.endswith(".gz") and rng.random() < 0.6:
        inner = gzip.decompress(path.read_bytes())
        if kind == "bytes":  # an image: the header is what decides
            inner = mutations.spoil(rng, inner[:352], kind) + inner[352:]
        else:
            inner = mutations.spoil(rng, inner, kind)
        path.write_bytes(gzip.compress(inner, 1))
    elif path.name.endswith(".gz"):
        path.write_bytes(mutations.spoil(rng, path.read_bytes(), "bytes"))
    elif kind == "bytes" and rng.random() < 0.6:
        data = path.read_bytes()
        path.write_bytes(mutations.spoil(rng, data[:352], kind) + data[352:])
    else:
        path.write_bytes(mutations.spoil(rng, path.read_bytes(), kind))


def paradigm(seeds: Seeds, rng: random.Random, folder: Path) -> None:
    """Draw a scan from a spoiled paradigm file, shipped ones and one with banks of its own."""
    shipped = sorted(PARADIGMS_FOLDER.glob("*.toml"))
    source = rng.choice([*shipped, seeds.folder / "own.toml", seeds.folder / "own.toml"])
    shutil.copy(seeds.folder / "bank.tsv", folder)
    path = folder / source.name.replace("_", "")
    path.write_bytes(source.read_bytes())
    spoil_file(rng, path)
    draw_scan(path, n_participants=rng.choice((1, 2)), allow_shared_prompts=rng.random() < 0.5)


def bank(seeds: Seeds, rng: random.Random, folder: Path) -> None:
    """Draw a scan from a spoiled table of prompts."""
    for name in ("bank.tsv", "own.toml"):
        shutil.copy(seeds.folder / name, folder)
    spoil_file(rng, folder / "bank.tsv")
    draw_scan(folder / "own.toml", n_participants=1)


def answers(seeds: Seeds, rng: random.Random, folder: Path) -> None:
    """Read a spoiled table of answers; some of those that can be read are replayed."""
    name = rng.choice(("texts.tsv", "tokens.tsv"))
    path = Path(shutil.copy(seeds.folder / name, folder))
    spoil_file(rng, path)
    scan = draw_scan(seeds.folder / "own.toml", n_participants=2)
    given = read_answers(path)
    for design in scan.designs:
        given.of_run(design)
    if rng.random() < 0.1:
        argv = ["replay", str(folder / "out"), "--transcripts", str(path), "--participants", "1"]
        command(argv, seeds, folder)


def sidecars(seeds: Seeds, rng: random.Random, folder: Path) -> None:
    """Read all of a dataset of which one file is spoiled: JSON, tables, series, masks."""
    read_spoiled(seeds, rng, folder, rng.choice(seeds.places))


def settings(seeds: Seeds, rng: random.Random, folder: Path) -> None:
    """Do the same with what every verb reads first: settings, fields, tasks, participants."""
    names = ("llm2bids_settings.json", "participants.tsv",
             "dataset_description.json")  # fmt: skip
    places = [place for place in seeds.places if place.name in names]
    read_spoiled(seeds, rng, folder, rng.choice(places))


def units(seeds: Seeds, rng: random.Random, folder: Path) -> None:
    """Do the same with the unit table and the space that goes with it."""
    read_spoiled(seeds, rng, folder, rng.choice((seeds.units, seeds.units, seeds.space)))


def read_spoiled(seeds: Seeds, rng: random.Random, folder: Path, place: Path) -> None:
    root = Path(shutil.copytree(seeds.dataset, folder / "dataset"))
    spoil_file(rng, root / place)
    before = {path for path in root.rglob("*") if path.is_file()}
    try:
        read_all(root)
        if rng.random() < 0.15:
            call(["report", str(root), "-o", str(folder / "page.html"), "-q"])
    finally:
        after = {path for path in root.rglob("*") if path.is_file()}
        if after != before:
            raise AssertionError(f"reading wrote or removed {sorted(after ^ before)}")
    with DatasetWriter.open(root) as writer:
        writer.finish_participant("01")


def read_all(root: Path) -> None:
    """Read every file of a dataset that llm2bids reads."""
    dataset = open_dataset(root)
    dataset.describe()
    for run in dataset.runs:
        dataset.values(run)
        dataset.token_table(run)
        dataset.t_r(run)
        dataset.events(run)
        dataset.confounds(run)
    inputs = open_inputs(root)
    for data in map(inputs.load, inputs.runs):
        for unit in ("prompt", "token"):
            run_design(data, AnalysisOptions(unit_of_analysis=unit))


def image(seeds: Seeds, rng: random.Random, folder: Path) -> None:
    """Locate the units of a spoiled map."""
    path = Path(shutil.copy(seeds.folder / rng.choice(("z.nii", "z.nii.gz")), folder))
    spoil_file(rng, path)
    out = folder / "units.tsv"
    code = call(["locate", str(path), "--dataset", str(seeds.dataset), "-o", str(out)])
    if code and out.exists():
        raise AssertionError("locate failed and left a table")


def call(argv: list[str]) -> int:
    """Call the command line; give its exit code."""
    try:
        code = cli.main(argv)
    except SystemExit as exit_:  # argparse
        code = exit_.code if isinstance(exit_.code, int) else 1
    if code not in (0, 1, 2):
        raise AssertionError(f"exit code {code}")
    if code and "Traceback" in getattr(sys.stderr, "getvalue", str)():
        raise AssertionError("a traceback on the standard error stream")
    return code


def command(argv: list[str], seeds: Seeds, folder: Path) -> None:
    """Call a scan of the tiny model and see that nothing half-written stays."""
    more = ["--model", str(seeds.model), "--paradigm", str(seeds.folder / "own.toml"), "-q"]
    call([argv[0], *more, *argv[1:]])
    left = [p for p in folder.rglob("*") if p.name.endswith(".part") or p.name == "staging"]
    if left:
        raise AssertionError(f"left half-written: {left}")
    for path in folder.glob("*/code/llm2bids_settings.json"):
        open_dataset(path.parent.parent)


COMMANDS: dict[str, tuple[str, ...]] = {
    "record": ("--participants", "--sites", "--device", "--dtype", "--task", "--revision",
               "--prompts-per-block", "--tokens-per-prompt", "--seed", "--tr", "--batch-size",
               "--keep-first", "--allow-shared-prompts", "--volume-dtype", "--no-compress", "--hrf",
               "--space-label", "--author", "--paradigm", "--model"),
    "replay": ("--transcripts", "--participants", "--task", "--seed", "--tr", "--batch-size",
               "--sites", "--keep-first", "--space-label"),
    "sites": ("--sites", "--device", "--dtype", "--skipped", "--tsv", "--model", "--revision"),
    "locate": ("--dataset", "--threshold", "--top-percent", "--one-sided", "--summary", "-o"),
    "report": ("--dataset", "--analysis", "-o"),
    "analyze": ("--participant-label", "--task", "--contrast", "-w", "--mem-gb", "--alpha",
                "--unit-of-analysis", "--noise-model", "--hrf-model", "--drift-model",
                "--high-pass", "--drift-order", "--confounds", "--smoothing", "--mask", "--n-cpus",
                "--height-control", "--cluster-threshold", "--n-perm", "--threshold", "--tfce",
                "--pooled-n-perm", "--random-state", "--top-percent", "--min-cohens-d"),
    "null": ("--groups", "--group-size", "--units", "--n-perm", "--seed", "--n-cpus", "--runs"),
    "demo": ("--prompts-per-block", "--tokens-per-prompt", "--seed", "--n-cpus"),
}  # fmt: skip
FLAGS = ("--keep-first", "--allow-shared-prompts", "--no-compress", "--skipped", "--tsv", "--tfce",
         "--one-sided", "--summary")  # fmt: skip
GOOD = ("1", "2", "0.5", "cpu", "float32", "bfloat16", "all", "residual", "mlp", "fossils", "votes",
        "int16", "auto", "none", "Tiny", "prompt", "token", "ols", "ar1", "01", "spm", "cosine",
        "fossils - votes", "framewise_displacement")  # fmt: skip


def argv(seeds: Seeds, rng: random.Random, folder: Path) -> None:
    """Call a command with options and values drawn at random."""
    names = list(COMMANDS)
    name = rng.choices(names, weights=(6, 3, 4, 4, 1, 3, 2, 2))[0]
    out = str(folder / "out")
    files = (str(seeds.dataset), str(seeds.folder / "z.nii"), str(seeds.folder / "texts.tsv"),
             str(seeds.folder), str(seeds.folder / "own.toml"), str(seeds.model), out)  # fmt: skip
    odd = [text for text in (*mutations.TEXTS, *mutations.NUMBERS) if "\x00" not in text]

    def value() -> str:
        return rng.choice(rng.choice((GOOD, GOOD, odd, files)))

    def place(good: str) -> str:
        return good if rng.random() < 0.8 else str(folder / "no" / "where")

    dataset = place(str(seeds.dataset))
    first = {
        "record": [out, "--model", place(str(seeds.model)), "--participants", "1"],
        "replay": [out, "--model", str(seeds.model), "--participants", "1", "--transcripts",
                   files[2]],
        "sites": ["--model", place(str(seeds.model))],
        "locate": [place(files[1]), "--dataset", dataset],
        "report": [dataset, "-o", str(folder / "page.html")],
        "analyze": [dataset, out, rng.choice(("participant", "participant", "group"))],
        "null": [dataset, out],
        "demo": [out, "--participants", "2"],
    }[name]  # fmt: skip
    if name in ("record", "replay"):
        first += ["--paradigm", str(seeds.folder / "own.toml")]
    words = [name, *first]
    for option in rng.choices(COMMANDS[name], k=rng.choice((0, 1, 1, 2, 3, 5))):
        words += [option] if option in FLAGS else [option, value()]
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words) + 1), value())
    call([*words, "-q"])
    left = [p for p in folder.rglob("*") if p.name.endswith(".part") or p.name == "staging"]
    if left:
        raise AssertionError(f"left half-written: {left}")


TARGETS: dict[str, Callable[[Seeds, random.Random, Path], None]] = {
    "paradigm": paradigm,
    "bank": bank,
    "sidecars": sidecars,
    "settings": settings,
    "units": units,
    "image": image,
    "answers": answers,
    "argv": argv,
}
"""What is spoiled: name -> function of the valid inputs, the random numbers, and a new folder."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Stop what takes too long."""

    def stop(signum: int, frame: Any) -> None:
        raise TooSlow(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_one(target: str, seeds: Seeds, seed: int, number: int, work: Path) -> str:
    """Try one input.

    Returns
    -------
    str
        ``"accepted"``, ``"refused"``, or what went wrong, with its traceback.
    """
    rng = random.Random(f"{seed} {target} {number}")
    folder = Path(tempfile.mkdtemp(dir=work))
    here, terminate = Path.cwd(), signal.getsignal(signal.SIGTERM)
    os.chdir(folder)
    said = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")),
            contextlib.redirect_stderr(said),
            limited(SECONDS),
        ):
            warnings.simplefilter("ignore")
            TARGETS[target](seeds, rng, folder)
        return "refused" if ": error: " in said.getvalue() else "accepted"
    except Llm2bidsError as error:
        return "refused" if str(error).strip() else "an error without a message"
    except KeyboardInterrupt:
        raise
    except BaseException:
        return traceback.format_exc()
    finally:
        os.chdir(here)
        signal.signal(signal.SIGTERM, terminate)
        logging.basicConfig(level=logging.WARNING, force=True)
        shutil.rmtree(folder, ignore_errors=True)


def fuzz(seeds: Seeds, target: str, numbers: range, seed: int, work: Path) -> Counter[str]:
    """Try many inputs of a target; print findings that are new; count the outcomes."""
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for number in numbers:
        outcome = try_one(target, seeds, seed, number, work)
        if outcome in ("accepted", "refused"):
            counts[outcome] += 1
            continue
        counts["findings"] += 1
        lines = [line for line in outcome.splitlines() if "/llm2bids/" in line or "File" in line]
        place = "".join(lines[-1:]) + outcome.strip().splitlines()[-1].partition(":")[0]
        if place not in seen:
            seen.add(place)
            print(f"--- {target} --seed {seed} --only {number}\n{outcome}", flush=True)
    counts["kinds of findings"] = len(seen)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=200, help="of each target (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="default: all")
    parser.add_argument("--only", type=int, help="this input alone")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    numbers = range(args.inputs) if args.only is None else range(args.only, args.only + 1)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        os.environ["LLM2BIDS_CACHE"] = str(Path(name) / "cache")
        seeds = Seeds(Path(name) / "seeds")
        (work := Path(name) / "work").mkdir()
        print("target     inputs accepted refused findings  seconds", flush=True)
        for target in args.target or TARGETS:
            began = time.perf_counter()
            counts = fuzz(seeds, target, numbers, args.seed, work)
            failed += counts["findings"]
            print(
                f"{target:10} {len(numbers):6} {counts['accepted']:8} {counts['refused']:7} "
                f"{counts['findings']:8} {time.perf_counter() - began:8.1f}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
