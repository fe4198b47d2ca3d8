"""Tokens per second of the scanner beside bare ``generate`` on the same batches.

Each round runs, for one run of the paper's paradigm (24 prompts, 12 volumes each) on the embedded
model with all sites: bare ``model.generate`` with sampling, `record_run` alone, and the given
tokens once more by `replay_run`. Then the same runs go through the whole scanner to the disk, as
``llm2bids record`` does it (two arrays in turn, written in the background): once as ``.nii.gz``,
once as ``.nii``. Bare ``generate`` is timed again after them. The same once for a run of a model of
1B's shape (Llama-3.2-1B's width, random weights): wider models compute more for each unit. Figures
are ratios within one process: machines are noisy.

    .venv/bin/python scripts/bench/recording.py --rounds 6 --output recording.json
"""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from measure import arguments, report, spent
from transformers import GenerationConfig, LlamaConfig

from llm2bids.dataset.write import DatasetWriter
from llm2bids.model.checkpoint import random_model
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.model.weights import weight_norms
from llm2bids.recording.batches import RunBuffers
from llm2bids.recording.calibration import RestScan, calibrate
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_run, replay_run
from llm2bids.recording.tokens import prompt_tokens
from llm2bids.scan.runs import progress_bar, write_missing
from llm2bids.space.arrange import build_space

WIDE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def bare(loaded, design, n_tokens):
    """Generate the answers of a run without recording anything."""
    prompts = prompt_tokens(loaded, [t.prompt for t in design.trials], n_tokens=n_tokens)
    batch = loaded.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding=True)
    config = GenerationConfig(
        min_new_tokens=n_tokens, max_new_tokens=n_tokens, do_sample=True, top_k=0, temperature=1.0
    )
    with torch.no_grad():
        loaded.model.generate(**batch.to(loaded.device), generation_config=config)


def on_disk(writer, folder, loaded, designs, sites, t_r):
    """Record runs into a dataset, as `llm2bids.scan.record.record` does."""
    buffers = RunBuffers(folder, loaded.device)
    n_units = sum(site.width for site in sites)

    def take(group, on_token):
        (design,) = group
        out = buffers.take(design.n_volumes, n_units)
        return [record_run(loaded, design, sites, out=out)]

    bar = progress_bar(0, "", progress=False)
    write_missing(writer, [(design,) for design in designs], take, t_r=t_r, bar=bar)


def in_memory(loaded, designs, sites, n_tokens):
    """Time bare generation, recording and replay of each run in turn."""
    taken = {name: [] for name in ("generate", "record_run", "replay_run")}
    bare(loaded, designs[0], n_tokens)
    out = record_run(loaded, designs[0], sites).values
    for design in designs:
        said = []

        def recorded(design=design, said=said):
            recording = record_run(loaded, design, sites, out=out)
            said += recording.tokens["token_id"].to_numpy().reshape(len(design.trials), -1).tolist()

        taken["generate"].append(spent(lambda d=design: bare(loaded, d, n_tokens)))
        taken["record_run"].append(spent(recorded))
        taken["replay_run"].append(
            spent(lambda d=design, s=said: replay_run(loaded, d, sites, s, out=out))
        )
    return taken


def to_disk(loaded, scan, designs, sites, ways):
    """Time whole scans for each run."""
    how = RestScan(tokens_per_prompt=12, sampling=scan.paradigm.sampling, seed=1)
    calibration = calibrate(loaded, scan.calibration[:8], sites, how)
    space = build_space(
        sites, label="Bench", model_name=loaded.name, weights_sha256=loaded.weights_sha256
    )
    norms = weight_norms(loaded, sites)
    taken = {}
    for name, compress in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "dataset"
            writer = DatasetWriter.create(
                root, space=space, calibration=calibration, paradigm=scan.paradigm,
                settings={"compress": compress}, weight_norms=norms,
            )  # fmt: skip
            with writer:
                both = spent(partial(on_disk, writer, root, loaded, designs, sites, scan.t_r))
                taken[name] = [tuple(one / len(designs) for one in both)]
    return taken


def save_wide_model(folder):
    """Save random weights of the wide shape, with the embedded model's tokenizer."""
    loaded = load_model()
    config = LlamaConfig(vocab_size=len(loaded.tokenizer), tie_word_embeddings=True, **WIDE)
    model = random_model(config, seed=0, dtype=loaded.model.dtype)
    model.generation_config = loaded.model.generation_config
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def main():
    args = arguments(__doc__, rounds=6)
    loaded = load_model()
    sites = select_sites(find_sites(loaded), ["all"])
    scan = draw_scan(n_participants=-(-args.rounds // 6))
    designs = scan.designs[: args.rounds]
    n_tokens = scan.paradigm.tokens_per_prompt + 1
    taken = in_memory(loaded, designs, sites, n_tokens)
    ways = {"record": True, "record_no_compress": False}
    taken |= to_disk(loaded, scan, designs, sites, ways)
    taken["generate"] += [spent(lambda d=d: bare(loaded, d, n_tokens)) for d in designs]
    median, used = (
        {name: statistics.median(row[i] for row in rows) for name, rows in taken.items()}
        for i in (0, 1)
    )
    ratio = {name: median["generate"] / value for name, value in median.items()}
    n_prompts, n_volumes = len(designs[0].trials), designs[0].n_volumes
    report(
        {
            "units": sum(site.width for site in sites),
            "prompts": n_prompts,
            "tokens_per_second": {
                name: n_prompts * n_tokens / value for name, value in median.items()
            },
            "cpu_ms_per_volume": {name: 1e3 * value / n_volumes for name, value in used.items()},
            "ratio_record_run": ratio["record_run"],
            "ratio_record": ratio["record"],
            "ratio_record_no_compress": ratio["record_no_compress"],
            "replay_over_record_run": median["record_run"] / median["replay_run"],
            "generate_then_replay_over_record_run": median["record_run"]
            / (median["generate"] + median["replay_run"]),
            "rounds": args.rounds,
        },
        args.output,
    )


if __name__ == "__main__":
    main()
