"""The scanner beside what one would write today: each prompt alone, with other tools.

`record_run` records a run of the embedded model (24 prompts) in one batch: all sites, and the
residual stream alone. Each other way runs prompts one by one (``peer.py``): forward hooks on the
same sites, ``output_hidden_states`` (residual stream), nnsight (residual stream), TransformerLens
(generate, then ``run_with_cache``). nnsight and TransformerLens are installed once, each in an
environment of its own in the cache folder, on top of this environment's torch. Figures are tokens
per second of the scanner over theirs; the scanner is timed before and after each of them.

    .venv/bin/python scripts/bench/others.py --prompts 3 --output others.json
"""

import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from measure import arguments, report, seconds

from llm2bids.model.cache import cache_folder
from llm2bids.model.embedded import embedded_folder
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_run
from llm2bids.recording.trials import prompt_tokens

WAYS = {
    "hooks": (None, "all"),
    "hidden_states": (None, "residual"),
    "nnsight": ("nnsight", "residual"),
    "transformer_lens": ("transformer-lens", "all"),
}
"""Package that a way needs, and what the scanner records beside it."""


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
    args = arguments(__doc__, prompts=2)
    loaded = load_model()
    known = find_sites(loaded)
    sites = {name: select_sites(known, [name]) for name in ("all", "residual")}
    scan = draw_scan(n_participants=1)
    design = scan.designs[0]
    n_tokens = scan.paradigm.tokens_per_prompt + 1
    prompts = prompt_tokens(loaded, [t.prompt for t in design.trials], n_tokens=n_tokens)
    generated = len(prompts) * n_tokens
    out = {name: record_run(loaded, design, chosen).values for name, chosen in sites.items()}

    def scan_run(name):
        return seconds(lambda: record_run(loaded, design, sites[name], out=out[name]))

    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, (_, beside) in WAYS.items():
            task = Path(folder) / f"{way}.json"
            task.write_text(
                json.dumps(
                    {
                        "folder": str(embedded_folder()),
                        "prompts": prompts[:: len(prompts) // args.prompts][: args.prompts],
                        "n_tokens": n_tokens,
                        "sites": [site.name for site in sites[beside]],
                    }
                )
            )
            ours = [scan_run(beside)]
            row = run_peer(way, task)
            ours.append(scan_run(beside))
            rate = generated / statistics.mean(ours)
            row |= {"scanner_records": beside, "scanner_tokens_per_second": rate}
            if "seconds" in row:
                row["tokens_per_second"] = n_tokens / statistics.median(row.pop("seconds"))
                row["times_faster"] = rate / row["tokens_per_second"]
            rows[way] = row
    units = {name: sum(site.width for site in chosen) for name, chosen in sites.items()}
    report({"units": units, "prompts_in_batch": len(prompts), "ways": rows}, args.output)


if __name__ == "__main__":
    main()
