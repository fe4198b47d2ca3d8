"""Long and large: many runs, long runs, many prompts, many participants, on a tiny model.

Four measurements, each on a model with random weights (three layers, 72 units of the residual
stream), so that what is measured is llm2bids and not the model:

    runs          memory and open files of one process over N runs (500)
    tokens        2 participants with one run of N tokens each (5,000)
    prompts       one run of N prompts with a one-token answer each (10,000)
    participants  one dataset that grows to each N given: seconds to record and to analyse one more
                  participant, and to open, go on with, check and test the group of all N; the
                  exponent of seconds over N is 0 for one participant and 1 for all where time is
                  linear, 1 and 2 where it is quadratic

    .venv/bin/python scripts/bench/soak.py runs 500
    .venv/bin/python scripts/bench/soak.py participants 125 250 500 1000 --output soak.json
"""

import argparse
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llm2bids import open_dataset
from llm2bids.dataset.check import check_dataset
from llm2bids.inference.analyze import analyze_group, analyze_participants
from llm2bids.paradigm.design import participant_label
from llm2bids.scan.record import record

ROOT = Path(__file__).parents[2]


def tiny_model(folder: Path) -> Path:
    """Make the tests' tiny Llama."""
    sys.path.append(str(ROOT))
    from tests.tiny_models import save_tiny_model

    return save_tiny_model("llama", folder / "model")


def own_paradigm(folder: Path, *, n_prompts: int, per_block: int, n_tokens: int) -> Path:
    """Write a paradigm of one task with banks of its own."""
    lines = ["prompt_id\tcondition\ttopic\ttext"]
    for bank, factor in (("on", 1), ("off", 2)):
        lines += [f"{bank}{n}\t{bank}\t\tprompt {bank} {n}" for n in range(factor * n_prompts + 4)]
    (folder / "bank.tsv").write_text("\n".join(lines) + "\n")
    (folder / "soak.toml").write_text(
        f'order = "off_on_off"\nbaseline = "off"\nprompts_per_block = {per_block}\n'
        f"tokens_per_prompt = {n_tokens}\ncalibration_prompts = 4\n[tasks]\non = 'on'\n"
        "[banks]\non = 'bank.tsv'\noff = 'bank.tsv'\n"
    )
    return folder / "soak.toml"


def memory_mb() -> float:
    """Resident memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """Open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def timed(work: Callable[[], Any]) -> float:
    """Seconds of processor time that something takes: other work on the machine does not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def options(folder: Path, paradigm: Path) -> dict[str, Any]:
    """Arguments of `record` that all measurements share."""
    return {
        "model": folder / "model",
        "paradigm": paradigm,
        "sites": ("residual",),
        "device": "cpu",
        "progress": False,
    }


def runs(folder: Path, counts: list[int]) -> dict[str, Any]:
    """Record many runs in one process; memory and open files at ten moments."""
    (n_runs,) = counts
    paradigm = own_paradigm(folder, n_prompts=2 * n_runs, per_block=2, n_tokens=2)
    rows = []
    step = max(1, n_runs // 10)
    for n_participants in range(step, n_runs + 1, step):
        record(folder / "dataset", n_participants=n_participants, **options(folder, paradigm))
        rows.append({"runs": n_participants, "rss_mb": memory_mb(), "open_files": open_files()})
        print(json.dumps(rows[-1]), flush=True)
    settled = rows[1:]  # the first rows hold what is loaded once
    slope = np.polyfit([r["runs"] for r in settled], [r["rss_mb"] for r in settled], 1)[0]
    return {"rows": rows, "mb_for_each_run": slope}


def tokens(folder: Path, counts: list[int]) -> dict[str, Any]:
    """Record two participants with one long run each."""
    (n_tokens,) = counts
    per_prompt = 100
    per_block = -(-n_tokens // (3 * per_prompt))
    paradigm = own_paradigm(
        folder, n_prompts=2 * per_block, per_block=per_block, n_tokens=per_prompt
    )
    seconds = timed(
        lambda: record(folder / "dataset", n_participants=2, **options(folder, paradigm))
    )
    dataset = open_dataset(folder / "dataset")
    shapes = [dataset.values(run).shape for run in dataset.runs]
    analysed = timed(lambda: analyze_participants(dataset.path, folder / "out", progress=False))
    return {"values": shapes, "record_s": seconds, "analyze_s": analysed, "peak_mb": peak_mb()}


def prompts(folder: Path, counts: list[int]) -> dict[str, Any]:
    """Record one run of very many prompts with one token each."""
    (n_prompts,) = counts
    per_block = -(-n_prompts // 3)
    paradigm = own_paradigm(folder, n_prompts=per_block, per_block=per_block, n_tokens=1)
    seconds = timed(
        lambda: record(folder / "dataset", n_participants=1, **options(folder, paradigm))
    )
    dataset = open_dataset(folder / "dataset")
    table = timed(lambda: dataset.token_table(dataset.runs[0]))
    analysed = timed(lambda: analyze_participants(dataset.path, folder / "out", progress=False))
    return {
        "volumes": dataset.load_run(dataset.runs[0]).shape[3],
        "record_s": seconds,
        "token_table_s": table,
        "analyze_s": analysed,
        "peak_mb": peak_mb(),
    }


def participants(folder: Path, counts: list[int]) -> dict[str, Any]:
    """Record, open, go on with, check and analyse a dataset of more and more participants."""
    rows: list[dict[str, float]] = []
    paradigm = own_paradigm(folder, n_prompts=max(counts), per_block=1, n_tokens=1)
    bids_dir, out_dir = folder / "dataset", folder / "out"
    before = 0
    for number in counts:
        more = {"n_participants": number, **options(folder, paradigm)}
        added = [participant_label(n) for n in range(before + 1, number + 1)]
        row: dict[str, float] = {"participants": number}
        row["record_one_s"] = timed(partial(record, bids_dir, **more)) / len(added)
        row["open_s"] = timed(partial(open_dataset, bids_dir))
        row["resume_s"] = timed(partial(record, bids_dir, **more))
        row["check_s"] = timed(partial(check_dataset, bids_dir))
        chosen = {"participant_label": added, "progress": False}
        fitted = timed(partial(analyze_participants, bids_dir, out_dir, **chosen))
        row["participant_one_s"] = fitted / len(added)
        row["group_s"] = timed(partial(analyze_group, bids_dir, out_dir, progress=False))
        rows.append(row)
        before = number
        print(json.dumps(row), flush=True)
    exponents = {
        name: float(np.polyfit(*(np.log([row[key] for row in rows]) for key in
                                 ("participants", name)), 1)[0])
        for name in rows[0] if name.endswith("_s") and len(rows) > 1
    }  # fmt: skip
    return {"rows": rows, "exponents": exponents, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


MEASUREMENTS = {"runs": runs, "tokens": tokens, "prompts": prompts, "participants": participants}
"""Name -> function of a new folder and the numbers that were asked for."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("measurement", choices=MEASUREMENTS)
    parser.add_argument("numbers", type=int, nargs="+", metavar="N")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    logging.getLogger("llm2bids").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LLM2BIDS_CACHE"] = str(folder / "cache")
        tiny_model(folder)
        began = time.perf_counter()
        result = MEASUREMENTS[args.measurement](folder, args.numbers)
        result["seconds"] = time.perf_counter() - began
    print(json.dumps(result, indent=1))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
