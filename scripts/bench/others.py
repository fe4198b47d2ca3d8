"""The scanner beside what one would write today: each prompt alone, with other tools.

`record_runs` records runs of the embedded model, all sites and the residual stream alone: one run
(24 prompts, a batch of the default size), and four together (``--batch-size 96``). Each other way
runs prompts one by one (``peer.py``): forward hooks on the same sites, ``output_hidden_states``
(residual stream), nnsight (residual stream), TransformerLens (generate, then ``run_with_cache``).
nnsight and TransformerLens are installed once, each in an environment of its own in the cache
folder, on top of this environment's torch. Figures are tokens per second of the scanner over
theirs; the scanner is timed before and after each of them, but not while one runs.

    .venv/bin/python scripts/bench/others.py --prompts 3 --output others.json
"""

import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from measure import arguments, report, seconds

from llm2bids.model.cache import cache_folder
from llm2bids.model.load import load_model
from llm2bids.model.place import EMBEDDED, locate_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_runs
from llm2bids.recording.tokens import prompt_tokens

WAYS = {
    "hooks": (None, "all"),
    "hidden_states": (None, "residual"),
    "nnsight": ("nnsight", "residual"),
    "transformer_lens": ("transformer-lens", "all"),
}
"""Package that a way needs, and what the scanner records beside it."""


TOGETHER = (1, 4)
"""Runs that are recorded together."""


def width(sites):
    """Count units."""
    return sum(site.width for site in sites)


def environment(package):
    """Make an environment with one package, once; give its Python, or what went wrong."""
    if package is None:
        return sys.executable, ""
    folder = cache_folder() / "bench" / package
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = [python, "-m", "pip", "install", "--quiet", package]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode:
            return None, tried.stderr.strip().splitlines()[-1]
        done.touch()
    return str(python), ""


def run_peer(way, task):
    """Run one other way; give what it printed, or what went wrong."""
    python, problem = environment(WAYS[way][0])
    if python is None:
        return {"failed": f"not installed: {problem}"}
    command = [python, str(Path(__file__).with_name("peer.py")), way, str(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def scanner(loaded, scan, sites):
    """Make what times the scanner on some sites: tokens per second by the prompts in a batch."""
    per_run = len(scan.designs[0].trials)
    groups = {per_run * n: scan.designs[:n] for n in TOGETHER}
    n_volumes = sum(design.n_volumes for design in groups[max(groups)])
    out = np.zeros((n_volumes, width(sites)), dtype=np.float32)

    def rates():
        taken = {}
        for size, designs in groups.items():
            rows = out[: sum(design.n_volumes for design in designs)]
            n_tokens = sum(
                len(design.trials) * (design.tokens_per_prompt + 1) for design in designs
            )
            record = partial(record_runs, loaded, designs, sites, batch_size=size, out=rows)
            taken[size] = n_tokens / seconds(record)
        return taken

    return rates


def compare(way, task, rates, n_tokens):
    """Time one other way between two rounds of the scanner."""
    before, row, after = rates(), run_peer(way, task), rates()
    ours = {size: (before[size] + after[size]) / 2 for size in before}
    row["scanner_tokens_per_second"] = ours
    if "seconds" in row:
        theirs = n_tokens / statistics.median(row.pop("seconds"))
        row["tokens_per_second"] = theirs
        row["times_faster"] = {size: rate / theirs for size, rate in ours.items()}
    return row


def main():
    args = arguments(__doc__, prompts=2)
    loaded = load_model()
    known = find_sites(loaded)
    sites = {name: select_sites(known, [name]) for name in ("all", "residual")}
    scan = draw_scan(n_participants=1)
    n_tokens = scan.paradigm.tokens_per_prompt + 1
    shown = scan.designs[0].trials
    texts = [trial.prompt for trial in shown[:: len(shown) // args.prompts][: args.prompts]]
    prompts = prompt_tokens(loaded, texts, n_tokens=n_tokens)
    rates = {name: scanner(loaded, scan, chosen) for name, chosen in sites.items()}
    rates["all"]()  # memory that is new to the process
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, (_, beside) in WAYS.items():
            task = Path(folder) / f"{way}.json"
            names = [site.name for site in sites[beside]]
            about = {
                "folder": locate_model(EMBEDDED, None, False).path,
                "n_tokens": n_tokens,
                "sites": names,
            }
            task.write_text(json.dumps(about | {"prompts": prompts}))
            row = compare(way, task, rates[beside], n_tokens)
            rows[way] = row | {"scanner_records": beside}
    units = {name: width(chosen) for name, chosen in sites.items()}
    report({"units": units, "ways": rows}, args.output)


if __name__ == "__main__":
    main()
