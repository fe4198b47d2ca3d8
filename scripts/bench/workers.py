"""The scanner with its workers beside bare ``generate``, in the same round.

A round records a dataset of few participants and one of many with ``llm2bids record`` and its
defaults (all sites, compressed, on disk); the difference is what participants cost, without the
start and the calibration. Beside it bare ``model.generate`` on the same batches: one process with
torch's own number of threads, and as many processes of one thread as `record` has workers.

    .venv/bin/python scripts/bench/workers.py --rounds 3 --output workers.json
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import arguments, report, run_child, spent

COMMAND = "import sys; from llm2bids.cli.main import main; sys.exit(main(sys.argv[1:]))"
N_RUNS = 6
"""Runs that each process of bare generation generates: a participant's."""


def record(n_participants, n_workers):
    """Record a dataset in a process of its own; seconds, processor seconds, volumes and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dataset"
        size = ["--participants", n_participants, "--n-workers", n_workers]
        used = run_child(["-c", COMMAND, "record", out, "-q", *size])
        series = list(out.glob("sub-*/func/*_bold.nii.gz"))
        used["bytes"] = sum(file.stat().st_size for file in series)
    return used


def generate(n_processes, n_threads):
    """Generate in processes side by side; the seconds and processor seconds of all."""
    command = [sys.executable, __file__, "child", str(n_threads)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n_processes)
    ]
    said = [json.loads(child.communicate()[0]) for child in children]
    return {"seconds": max(s for s, _ in said), "cpu_seconds": sum(cpu for _, cpu in said)}


def child(n_threads):
    """Generate the answers of a participant's runs, after a first one that is not timed."""
    import torch
    from recording import bare

    from llm2bids.model.load import load_model
    from llm2bids.recording.draw import draw_scan

    if n_threads:
        torch.set_num_threads(n_threads)
    loaded, scan = load_model(), draw_scan(n_participants=1)
    n_tokens = scan.paradigm.tokens_per_prompt + 1
    bare(loaded, scan.designs[0], n_tokens)
    print(json.dumps(spent(lambda: [bare(loaded, d, n_tokens) for d in scan.designs[:N_RUNS]])))


def main():
    workers = os.cpu_count() or 1
    args = arguments(__doc__, rounds=1, few=workers, many=3 * workers, workers=workers)
    n_volumes = 24 * 12 * N_RUNS
    rounds = []
    for _ in range(args.rounds):
        few, many = record(args.few, args.workers), record(args.many, args.workers)
        n_more = (args.many - args.few) * n_volumes
        rates = {"record": n_more / (many["seconds"] - few["seconds"])}
        cpu = {"record": (many["cpu_seconds"] - few["cpu_seconds"]) / n_more}
        for name, (n, threads) in {"generate": (1, 0), "one_thread": (args.workers, 1)}.items():
            taken = generate(n, threads)
            rates[name] = n * n_volumes / taken["seconds"]
            cpu[name] = taken["cpu_seconds"] / (n * n_volumes)
        rounds.append(
            {
                "volumes_per_second": rates,
                "whole_record_volumes_per_second": args.many * n_volumes / many["seconds"],
                "cpu_ms_per_volume": {name: 1e3 * value for name, value in cpu.items()},
                "ratio_over_generate": rates["record"] / rates["generate"],
                "ratio_over_one_thread": rates["record"] / rates["one_thread"],
                "bytes_per_volume": many["bytes"] / (args.many * n_volumes),
                "load": os.getloadavg()[0],
            }
        )
        print(json.dumps(rounds[-1]), file=sys.stderr)
    middle = {
        name: statistics.median(row[name] for row in rounds)
        for name in ("ratio_over_generate", "ratio_over_one_thread", "bytes_per_volume")
    }
    report({"workers": args.workers, **middle, "rounds": rounds}, args.output)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(int(sys.argv[2]))
    else:
        main()
