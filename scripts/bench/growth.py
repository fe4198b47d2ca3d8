"""How time and bytes grow with the number of units and of tokens; fitted exponents and a plot.

Three series, the first two fitted by a line through the logarithms (1: in proportion, 0: not at
all) of the upper decade: below it, what each run costs by itself weighs.

    write    a simulated run is encoded, compressed and written, for 16 k to 2 M units
    tokens   a run is recorded and written, for 100 to 10,000 tokens, on a small model with random
             weights (so that what grows is the scanner, not the model)
    record   a run is recorded on a model of a 7B's width with two layers and random weights, with
             more and more of its sites; the time of bare generation is shown beside it

Seconds are the process's processor time, so that other work on the machine counts less.

    .venv/bin/python scripts/bench/growth.py --output growth.json
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from measure import arguments, report
from transformers import LlamaConfig

from llm2bids.dataset.write import DatasetWriter
from llm2bids.model.checkpoint import random_model
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites
from llm2bids.model.units import Site
from llm2bids.recording.calibration import Calibration
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_run
from llm2bids.scan.simulate import simulate_recording
from llm2bids.space.arrange import build_space

UNITS = (16_384, 65_536, 262_144, 1_048_576, 2_097_152)
TOKENS = (96, 312, 996, 3_120, 9_984)
TOKENS_PER_PROMPT = 12


def fit(x, y):
    """Fit the exponent of a power law to the upper decade."""
    last = [place for place, value in enumerate(x) if 11 * value > max(x)]
    return float(np.polyfit(np.log(x)[last], np.log(y)[last], 1)[0])


def design_of(scan, n_prompts, n_tokens):
    """Make a run of so many prompts out of the first one."""
    design = scan.designs[0]
    trials = tuple(design.trials[index % len(design.trials)] for index in range(n_prompts))
    return replace(design, trials=trials, tokens_per_prompt=n_tokens)


def write_runs(scan, sites, recordings):
    """Write runs into one dataset; processor seconds and bytes of each run's series."""
    space = build_space(sites, label="Bench", model_name="bench", weights_sha256="0" * 64)
    calibration = Calibration(
        mean=np.zeros(space.n_units, dtype=np.float32),
        sd=np.ones(space.n_units, dtype=np.float32),
        prompt_ids=("a",),
        n_tokens=1,
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "dataset"
        with DatasetWriter.create(
            root, space=space, calibration=calibration, paradigm=scan.paradigm, settings={},
            weight_norms=np.ones(space.n_units, dtype=np.float32),
        ) as writer:  # fmt: skip
            for index, make in enumerate(recordings):
                began = time.process_time()
                recording = make(space)
                recorded = time.process_time() - began
                run = replace(recording.design, run=index + 1)
                began = time.process_time()
                writer.write_run(replace(recording, design=run), t_r=scan.t_r)
                written = time.process_time() - began
                series = list(root.glob(f"sub-*/func/*run-{index + 1}_bold.nii.gz"))
                rows.append((recorded, written, sum(path.stat().st_size for path in series)))
    return rows


def by_units(scan):
    design = design_of(scan, 12, 4)
    rows = []
    for n_units in UNITS:
        width = min(4096, n_units // 8)
        names = (f"model.layers.{index // 8}.m{index % 8}" for index in range(n_units // width))
        sites = tuple(
            Site(name=name, layer=index // 8, role=f"m{index % 8}", width=width)
            for index, name in enumerate(names)
        )
        make = [lambda space: simulate_recording(space, design)] * 3
        _, first, second = write_runs(scan, sites, make)  # the first warms up
        rows.append((min(first[1], second[1]), second[2]))
    seconds, sizes = (list(column) for column in zip(*rows, strict=True))
    return {
        "units": list(UNITS),
        "volumes": design.n_volumes,
        "seconds": seconds,
        "bytes": sizes,
        "exponent_seconds": fit(UNITS, seconds),
        "exponent_bytes": fit(UNITS, sizes),
    }


def small(loaded, **shape):
    """Put a model with random weights in place of the embedded one; its tokenizer stays."""
    config = LlamaConfig(vocab_size=len(loaded.tokenizer), tie_word_embeddings=True, **shape)
    model = random_model(config, seed=0, dtype=loaded.model.dtype).to(loaded.device).eval()
    model.requires_grad_(False)
    model.generation_config = loaded.model.generation_config
    return replace(loaded, model=model, random_weights=0)


def by_tokens(scan, embedded, largest):
    shape = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
    loaded = small(embedded, num_attention_heads=4, num_key_value_heads=4, **shape)
    sites = find_sites(loaded).sites
    wanted = [n for n in TOKENS if n <= largest]
    designs = [design_of(scan, n // TOKENS_PER_PROMPT, TOKENS_PER_PROMPT) for n in wanted]
    make = [lambda space, d=d: record_run(loaded, d, sites) for d in (designs[0], *designs)]
    rows = write_runs(scan, sites, make)[1:]
    recorded, written, sizes = (list(column) for column in zip(*rows, strict=True))
    return {
        "units": sum(site.width for site in sites),
        "tokens": wanted,
        "seconds_record": recorded,
        "seconds_write": written,
        "bytes": sizes,
        "exponent_record": fit(wanted, recorded),
        "exponent_write": fit(wanted, written),
        "exponent_bytes": fit(wanted, sizes),
    }


def by_sites(scan, embedded):
    shape = {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 2}
    loaded = small(embedded, num_attention_heads=32, num_key_value_heads=32, **shape)
    known = sorted(find_sites(loaded).sites, key=lambda site: site.width)
    design = design_of(scan, 8, 4)
    rows = []
    record_run(loaded, design, known[:1])
    for share in (0, 4, len(known) // 2, len(known)):
        sites = known[: max(share, 1)]
        began = time.process_time()
        record_run(loaded, design, sites)
        rows.append((sum(site.width for site in sites), time.process_time() - began))
    units, taken = (list(column) for column in zip(*rows, strict=True))
    return {
        "units": units,
        "volumes": design.n_volumes,
        "seconds": taken,
        "all_sites_over_one": taken[-1] / taken[0],
    }


def draw(result, path):
    """Draw bytes and time over units and over tokens, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    units, tokens = result["write"], result["tokens"]
    about = f"a run of {units['volumes']} volumes", f"{tokens['units']:,} units"
    series = (
        (units["units"], "units", [("write", units["seconds"], units["exponent_seconds"])], units),
        (
            tokens["tokens"],
            "tokens",
            [
                ("record", tokens["seconds_record"], tokens["exponent_record"]),
                ("write", tokens["seconds_write"], tokens["exponent_write"]),
            ],
            tokens,
        ),
    )
    colours = {"write": "#0072B2", "record": "#009E73", "bytes": "#D55E00"}
    for axis, (x, name, lines, part), title in zip(axes, series, about, strict=True):
        for label, y, exponent in lines:
            axis.loglog(x, y, "o-", color=colours[label], label=f"{label}, s: x^{exponent:.2f}")
        megabytes = np.array(part["bytes"]) / 1e6
        text = f"image, MB: x^{part['exponent_bytes']:.2f}"
        axis.loglog(x, megabytes, "s--", color=colours["bytes"], label=text)
        axis.set(xlabel=name, ylabel="processor seconds, or MB", title=title)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main():
    args = arguments(__doc__, tokens=TOKENS[-1])
    scan = draw_scan(n_participants=1)
    result = {"write": by_units(scan)}
    embedded = load_model()
    result["tokens"] = by_tokens(scan, embedded, args.tokens)
    result["record"] = by_sites(scan, embedded)
    if args.output is not None:
        draw(result, args.output.with_suffix(".svg"))
    report(result, args.output)


if __name__ == "__main__":
    main()
