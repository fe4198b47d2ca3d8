"""Tokens per second of the scanner beside bare ``generate`` on the same batches.

Each round runs, for one run of the paper's paradigm (24 prompts, 12 volumes each) on the embedded
model with all sites: bare ``model.generate`` with sampling; ``record_run`` alone; and at the end
the same runs once more through the whole scanner, compressed and on disk, written in the background
as ``llm2bids record`` does. Figures are ratios within one process: machines are noisy.

    .venv/bin/python scripts/bench/recording.py --rounds 5 --output recording.json
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import GenerationConfig

from llm2bids.dataset.background import Background
from llm2bids.dataset.write import DatasetWriter
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.model.weights import weight_norms
from llm2bids.recording.calibration import calibrate
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_run
from llm2bids.recording.trials import prompt_tokens
from llm2bids.space.arrange import build_space


def bare(loaded, design, n_tokens):
    prompts = prompt_tokens(loaded, [t.prompt for t in design.trials], n_tokens=n_tokens)
    batch = loaded.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding=True)
    config = GenerationConfig(
        min_new_tokens=n_tokens, max_new_tokens=n_tokens, do_sample=True, top_k=0, temperature=1.0
    )
    start = time.perf_counter()
    with torch.no_grad():
        loaded.model.generate(**batch.to(loaded.device), generation_config=config)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    loaded = load_model()
    sites = select_sites(find_sites(loaded), ["all"])
    scan = draw_scan(n_participants=1 + args.rounds // 6)
    designs = scan.designs[: args.rounds]
    n_tokens = scan.paradigm.tokens_per_prompt + 1
    generated = len(designs[0].trials) * n_tokens
    options = {"tokens_per_prompt": 12, "sampling": scan.paradigm.sampling, "seed": 1}
    calibration = calibrate(loaded, scan.calibration, sites, **options)
    space = build_space(
        sites, label="Bench", model_name=loaded.name, weights_sha256=loaded.weights_sha256
    )
    rates = {"generate": [], "record_run": [], "record": []}
    with tempfile.TemporaryDirectory() as folder:
        writer = DatasetWriter.create(
            Path(folder) / "dataset",
            space=space,
            calibration=calibration,
            paradigm=scan.paradigm,
            settings={},
            weight_norms=weight_norms(loaded, sites),
        )
        with writer:
            bare(loaded, designs[0], n_tokens)
            for design in designs:
                rates["generate"].append(generated / bare(loaded, design, n_tokens))
                start = time.perf_counter()
                record_run(loaded, design, sites)
                rates["record_run"].append(generated / (time.perf_counter() - start))
            start = time.perf_counter()
            with Background() as background:
                for design in designs:
                    recording = record_run(loaded, design, sites)
                    background.submit(writer.write_run, recording, t_r=scan.t_r)
                    del recording
            seconds = time.perf_counter() - start
            rates["record"].append(generated * len(designs) / seconds)
            again = [generated / bare(loaded, design, n_tokens) for design in designs]
            rates["generate"] += again
    median = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "tokens_per_second": median,
        "ratio_record_run": median["record_run"] / median["generate"],
        "ratio_record": median["record"] / median["generate"],
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
    }
    print(json.dumps(result, indent=1))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
