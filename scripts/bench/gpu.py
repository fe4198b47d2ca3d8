"""A GPU's values beside a CPU's, exactness of many architectures on it, and recording over bare.

Tiny models of many architectures are checked at load in float32 and bfloat16 (padded lengths 33
and 65 among them). A model of 1B's shape with random weights reads the same texts on the GPU and on
the CPU. Its recording is timed beside bare ``generate``, in memory and to the disk. Needs no
network. `gpu.sh` calls it.

    .venv/bin/python scripts/bench/gpu.py --rounds 3 --output gpu.json
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import ROOT, arguments, report
from recording import WIDE, bare, to_disk
from transformers import LlamaConfig

sys.path.insert(0, str(ROOT))
os.environ.setdefault("TQDM_DISABLE", "1")

from llm2bids.exceptions import Llm2bidsError
from llm2bids.model.checkpoint import random_model
from llm2bids.model.exactness import exact_sites
from llm2bids.model.generate import read_batch
from llm2bids.model.hooks import new_values
from llm2bids.model.load import load_model
from llm2bids.model.sites import select_sites
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_run
from llm2bids.recording.tokens import prompt_tokens
from tests.tiny_models import save_architecture

DEVICE = "cuda"

KINDS = (
    *("llama", "gpt2", "opt", "gpt_neox", "bloom", "falcon", "phi3", "qwen3", "gemma2", "olmo2"),
    *("gemma3_text", "mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoehybrid"),
    *("mamba", "mamba2", "jamba", "zamba2", "lfm2", "qwen3_next", "recurrent_gemma", "minimax"),
)
"""Architectures that are checked: attention of all kinds, experts, states."""


def checked(kind, dtype):
    """Say of an architecture how it is batched and its largest error, or why it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = save_architecture(kind, Path(folder))
            loaded = load_model(model, device=DEVICE, dtype=dtype)
            _, table, exact = exact_sites(loaded)
        except Llm2bidsError as error:
            return {"refused": str(error)[:200]}
        return {
            "batching": exact.batching,
            "largest_error": max(exact.errors.values()),
            "sites": len(table.sites),
            "left_out": len(exact.left_out),
        }


def checked_apart(kind, dtype):
    """Do the same in a process of its own: a kernel that fails takes its process along."""
    command = [sys.executable, __file__, "--kind", kind, "--dtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    lines = [line.strip() for line in done.stderr.splitlines() if "rror" in line]
    return {"failed": (lines or ["no message"])[0][:200]}


def wide_model(device, dtype):
    """Make a model of 1B's shape; the weights depend on the seed alone."""
    with tempfile.TemporaryDirectory() as folder:
        small = load_model(save_architecture("llama", Path(folder)), device="cpu")
    config = LlamaConfig(vocab_size=49152, tie_word_embeddings=True, **WIDE)
    model = random_model(config, seed=0, dtype=dtype).to(device).eval().requires_grad_(False)
    model.generation_config = small.model.generation_config
    name = str(dtype).removeprefix("torch.")
    return replace(small, model=model, device=str(device), dtype=name, max_length=2048)


def difference(device, designs, n_tokens):
    """Read the same texts on both devices in float32; give the largest error by role."""
    values, widths = [], None
    rng = np.random.default_rng(0)
    for place in ("cpu", device):
        loaded = wide_model(place, torch.float32)
        _, table, _ = exact_sites(loaded)
        prompts = prompt_tokens(
            loaded, [t.prompt for t in designs[0].trials[::3]], n_tokens=n_tokens
        )
        if widths is None:
            answers = rng.integers(3, 300, (len(prompts), n_tokens)).tolist()
            widths = [(site.role, site.width) for site in table.sites]
        n_units = sum(width for _, width in widths)
        out = new_values((len(prompts), n_tokens, n_units), loaded.device)
        read_batch(loaded, prompts, answers, table.sites, first_step=0, out=out)
        values.append(np.array(out, copy=True).reshape(-1, n_units))
        del loaded
    errors, start = {}, 0
    for role, width in widths:
        here, there = (array[:, start : start + width] for array in values)
        error = float(np.abs(here - there).max() / np.abs(here).max())
        errors[role] = max(errors.get(role, 0.0), error)
        start += width
    return {role: float(f"{error:.2g}") for role, error in errors.items()}


def rates(device, dtype, scan, rounds):
    """Time bare generation and recording of the same runs in turn."""
    loaded, table, _ = exact_sites(wide_model(device, dtype))
    sites = select_sites(table, ["all"])
    n_tokens = scan.paradigm.tokens_per_prompt + 1
    bare(loaded, scan.designs[0], n_tokens)
    out = record_run(loaded, scan.designs[0], sites).values
    taken = {"generate": [], "record_run": []}
    for design in scan.designs[:rounds]:
        for name, work in (
            ("generate", lambda d=design: bare(loaded, d, n_tokens)),
            ("record_run", lambda d=design: record_run(loaded, d, sites, out=out)),
        ):
            torch.cuda.synchronize()
            began = time.perf_counter()
            work()
            torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - began)
    median = {name: statistics.median(spent) for name, spent in taken.items()}
    ((written, _),) = to_disk(loaded, scan, scan.designs[:rounds], sites, {"record": True})[
        "record"
    ]
    return {
        "units": sum(site.width for site in sites),
        "tokens_per_second": {
            name: len(scan.designs[0].trials) * n_tokens / spent for name, spent in median.items()
        },
        "ratio_record_run": median["generate"] / median["record_run"],
        "ratio_record": median["generate"] / written,
    }


def main():
    if "--kind" in sys.argv:
        logging.disable(logging.WARNING)
        print(json.dumps(checked(sys.argv[2], sys.argv[4])))
        return
    args = arguments(__doc__, rounds=3)
    if not torch.cuda.is_available():
        sys.exit("no GPU on this machine: nothing was measured")
    logging.disable(logging.WARNING)
    scan = draw_scan(n_participants=1)
    result = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    for dtype in ("float32", "bfloat16"):
        with ThreadPoolExecutor(8) as pool:
            rows = pool.map(checked_apart, KINDS, [dtype] * len(KINDS))
            result[f"exactness_{dtype}"] = dict(zip(KINDS, rows, strict=True))
    report(result, args.output)  # kept, whatever becomes of the rest
    result["gpu_against_cpu"] = difference(DEVICE, scan.designs, scan.paradigm.tokens_per_prompt)
    for dtype in (torch.float32, torch.bfloat16):
        result[f"rates_{dtype}".replace("torch.", "")] = rates(DEVICE, dtype, scan, args.rounds)
    report(result, args.output)


if __name__ == "__main__":
    main()
