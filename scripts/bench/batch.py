"""How generation is best run: prompts in a batch, threads, static cache, ``torch.compile``.

Prompts of the shipped paradigm (12 volumes each, all sites of the embedded model) are recorded in
batches of 1 (four prompts only), 24 (a run), 48 (two runs, the default) and 96 (four runs), in one
thread, as a worker does it.
Then bare ``model.generate`` of one run is timed with half of the threads, with a static cache, and
compiled; each beside plain ``generate``, in the same process and in alternation.

    .venv/bin/python scripts/bench/batch.py --rounds 3 --output batch.json
"""

import statistics
from dataclasses import replace

import numpy as np
import torch
from measure import arguments, report, seconds, spent
from transformers import CompileConfig, GenerationConfig

from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_runs
from llm2bids.recording.tokens import prompt_tokens

ALONE = 4
"""Prompts that are run one by one."""


def recorded(loaded, scan, sites, rounds):
    """Tokens per second of recording by batch size, and milliseconds of processor time a token."""
    first = scan.designs[0]
    alone = replace(first, trials=first.trials[:ALONE])
    parts = {1: [alone], 24: scan.designs[:1], 48: scan.designs[:2], 96: scan.designs[:4]}
    per_prompt = scan.paradigm.tokens_per_prompt + 1
    width = sum(site.width for site in sites)
    outs = {
        size: np.zeros((sum(design.n_volumes for design in designs), width), dtype=np.float32)
        for size, designs in parts.items()
    }
    for size, designs in parts.items():
        record_runs(loaded, designs, sites, batch_size=size, out=outs[size])
    taken = {size: [] for size in parts}
    for _ in range(rounds):
        for size, designs in parts.items():
            n_tokens = per_prompt * sum(len(design.trials) for design in designs)
            options = {"batch_size": size, "out": outs[size]}
            both = spent(lambda d=designs, o=options: record_runs(loaded, d, sites, **o))
            taken[size].append([one / n_tokens for one in both])
    return {
        str(size): {
            "tokens_per_second": 1 / statistics.median(row[0] for row in rows),
            "cpu_ms_per_token": 1e3 * statistics.median(row[1] for row in rows),
        }
        for size, rows in taken.items()
    }


def generated(loaded, scan, rounds):
    """Speed of ways to generate a run, over plain ``generate``."""
    n_tokens = scan.paradigm.tokens_per_prompt + 1
    prompts = prompt_tokens(loaded, [t.prompt for t in scan.designs[0].trials], n_tokens=n_tokens)
    batch = loaded.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding=True)
    batch = batch.to(loaded.device)
    plain = {"min_new_tokens": n_tokens, "max_new_tokens": n_tokens, "do_sample": False}
    static = plain | {"cache_implementation": "static"}
    threads = torch.get_num_threads()

    def generate(options):
        with torch.no_grad():
            loaded.model.generate(**batch, generation_config=GenerationConfig(**options))

    def half():
        torch.set_num_threads(max(threads // 2, 1))
        try:
            return generate(plain)
        finally:
            torch.set_num_threads(threads)

    # CompileConfig's own switch lets generate compile on a CPU too
    config = CompileConfig(fullgraph=False, mode="default")
    config._compile_all_devices = True
    ways = {
        "half_of_the_threads": half,
        "static_cache": lambda: generate(static | {"disable_compile": True}),
        "compiled": lambda: generate(static | {"compile_config": config}),
    }
    rows = {}
    generate(plain)
    for name, way in ways.items():
        try:
            first = seconds(way)
        except Exception as error:  # where no compiler is installed, for one
            rows[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            continue
        pairs = [(seconds(lambda: generate(plain)), seconds(way)) for _ in range(rounds)]
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows[name] = {"over_plain": ours / theirs, "first_call_seconds": first, "seconds": theirs}
    return rows


def main():
    args = arguments(__doc__, rounds=3)
    loaded = load_model()
    sites = select_sites(find_sites(loaded), ["all"])
    scan = draw_scan(n_participants=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = recorded(loaded, scan, sites, args.rounds)
    torch.set_num_threads(threads)
    report(
        {
            "record_by_batch": rates,
            **{
                f"batch_{more}_over_{few}": rates[more]["tokens_per_second"]
                / rates[few]["tokens_per_second"]
                for few, more in (("1", "24"), ("24", "48"), ("24", "96"))
            },
            "generate": generated(loaded, scan, args.rounds),
        },
        args.output,
    )


if __name__ == "__main__":
    main()
