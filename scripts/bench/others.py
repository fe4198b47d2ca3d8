"""The scanner beside what one would write today: each prompt alone, with other tools.

``llm2bids record`` runs with its defaults, everything on disk: all sites of the embedded model, and
the residual stream alone; a scan of few participants is taken off one of many, so that start and
calibration do not count. Each other way runs prompts one by one, into memory (``peer.py``): forward
hooks on the same sites, ``output_hidden_states`` (residual stream), nnsight (residual stream),
TransformerLens (generate, then ``run_with_cache``), each with torch's own number of threads.
nnsight and TransformerLens are installed once, each in an environment of its own in the cache
folder, on top of this environment's torch. Figures are volumes per second of the scanner over
theirs.

    .venv/bin/python scripts/bench/others.py --prompts 3 --output others.json
"""

import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import workers
from measure import arguments, report

from llm2bids.model.cache import cache_folder
from llm2bids.model.load import load_model
from llm2bids.model.location import EMBEDDED, locate_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.tokens import prompt_tokens

WAYS = {
    "hooks": (None, "all"),
    "hidden_states": (None, "residual"),
    "nnsight": ("nnsight", "residual"),
    "transformer_lens": ("transformer-lens", "all"),
}
"""Package that a way needs, and what the scanner records beside it."""


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


def main():
    args = arguments(__doc__, prompts=2, few=2, many=6)
    loaded = load_model()
    known = find_sites(loaded)
    sites = {name: select_sites(known, [name]) for name in ("all", "residual")}
    scan = draw_scan(n_participants=1)
    n_tokens = scan.paradigm.tokens_per_prompt + 1
    shown = scan.designs[0].trials
    texts = [trial.prompt for trial in shown[:: len(shown) // args.prompts][: args.prompts]]
    prompts = prompt_tokens(loaded, texts, n_tokens=n_tokens)
    rates = {
        name: workers.scan(args.few, args.many, "--sites", name)["volumes_per_second"]
        for name in sites
    }
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, (_, beside) in WAYS.items():
            task = Path(folder) / f"{way}.json"
            about = {
                "folder": locate_model(EMBEDDED, None, False).path,
                "n_tokens": n_tokens,
                "sites": [site.name for site in sites[beside]],
            }
            task.write_text(json.dumps(about | {"prompts": prompts}))
            row = run_peer(way, task) | {"scanner_records": beside}
            if "seconds" in row:
                taken = statistics.median(row.pop("seconds"))
                row["volumes_per_second"] = scan.paradigm.tokens_per_prompt / taken
                row["values_per_second"] = row["values"] / taken
                row["times_faster"] = rates[beside] / row["volumes_per_second"]
            rows[way] = row
    units = {name: width(chosen) for name, chosen in sites.items()}
    scanned = {
        name: {"volumes_per_second": rate, "values_per_second": rate * units[name]}
        for name, rate in rates.items()
    }
    report({"units": units, "scanner": scanned, "ways": rows}, args.output)


if __name__ == "__main__":
    main()
