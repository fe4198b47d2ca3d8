"""The scanner with its workers beside bare ``generate``, in the same round.

A round records a dataset of few participants and one of many with ``llm2bids record`` and its
defaults (all sites, compressed, on disk); the difference is what participants cost, without the
start and the calibration. Beside it bare ``model.generate``: one process with torch's own number
of threads, and as many processes of one thread as `record` has workers; each on the prompts of one
run, as one would call it, and on the batches that `record` makes of them. Then the same, for one
round, with random weights of 1B's shape, whose runs are recorded one at a time.

    .venv/bin/python scripts/bench/workers.py --rounds 3 --output workers.json
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from measure import arguments, report, run_child, spent

COMMAND = "import sys; from llm2bids.cli.main import main; sys.exit(main(sys.argv[1:]))"
TASKS = ("pathology", "archeology", "paleontology", "medicalimaging", "politicalscience",
         "randomstrings")  # fmt: skip
VOLUMES_PER_RUN = 24 * 12


def record(n_participants, *options):
    """Record a dataset in a process of its own; seconds, processor seconds and bytes of series."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dataset"
        size = ["--participants", n_participants]
        used = run_child(["-c", COMMAND, "record", out, "-q", *size, *options])
        series = list(out.glob("sub-*/func/*_bold.nii.gz"))
        used["bytes"] = sum(file.stat().st_size for file in series)
    return used


def scan(few, many, *options, tasks=TASKS):
    """Take a scan of few participants off one of many: volumes/s, processor ms, bytes a volume."""
    options += tuple(part for task in tasks for part in ("--task", task))
    less, more = record(few, *options), record(many, *options)
    n_more = (many - few) * len(tasks) * VOLUMES_PER_RUN
    return {
        "volumes_per_second": n_more / (more["seconds"] - less["seconds"]),
        "cpu_ms_per_volume": 1e3 * (more["cpu_seconds"] - less["cpu_seconds"]) / n_more,
        "bytes_per_volume": (more["bytes"] - less["bytes"]) / n_more,
    }


def generate(n_processes, n_threads, together, tasks, model):
    """Generate in processes side by side; volumes/s and processor ms a volume of all."""
    command = [sys.executable, __file__, "child", str(n_threads), str(together), model, *tasks]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n_processes)
    ]
    said = [json.loads(child.communicate()[0]) for child in children]
    n_volumes = n_processes * len(tasks) * VOLUMES_PER_RUN
    return {
        "volumes_per_second": n_volumes / max(seconds for seconds, _ in said),
        "cpu_ms_per_volume": 1e3 * sum(cpu for _, cpu in said) / n_volumes,
    }


def child(n_threads, together, model, *tasks):
    """Generate the answers of a participant's runs, after a first batch that is not timed."""
    import torch
    from recording import bare

    from llm2bids.model.load import load_model
    from llm2bids.recording.draw import draw_scan

    if n_threads:
        torch.set_num_threads(n_threads)
    loaded, scan = load_model(model), draw_scan(n_participants=1, task_labels=tasks)
    n_tokens = scan.paradigm.tokens_per_prompt + 1
    designs = scan.designs
    batches = [
        replace(
            designs[start], trials=sum((d.trials for d in designs[start : start + together]), ())
        )
        for start in range(0, len(designs), together)
    ]
    bare(loaded, batches[0], n_tokens)
    print(json.dumps(spent(lambda: [bare(loaded, batch, n_tokens) for batch in batches])))


def one_round(n_workers, few, many, tasks, model, together):
    """Record and generate; `together` runs make one batch of `record`."""
    found = {"record": scan(few, many, "--n-workers", n_workers, "--model", model, tasks=tasks)}
    ways = {"generate": (1, 0, 1), "one_thread": (n_workers, 1, 1)}
    if together > 1:
        ways["generate_same_batch"] = (1, 0, together)
        ways["one_thread_same_batch"] = (n_workers, 1, together)
    found |= {name: generate(*how, tasks, model) for name, how in ways.items()}
    rate = found["record"]["volumes_per_second"]
    return {
        "volumes_per_second": {name: row["volumes_per_second"] for name, row in found.items()},
        "cpu_ms_per_volume": {name: row["cpu_ms_per_volume"] for name, row in found.items()},
        **{f"ratio_over_{name}": rate / found[name]["volumes_per_second"] for name in ways},
        "bytes_per_volume": found["record"]["bytes_per_volume"],
        "load": os.getloadavg()[0],
    }


def wider(n_workers):
    """Run a round with random weights of 1B's shape, from a folder."""
    from recording import WIDE, save_wide_model

    with tempfile.TemporaryDirectory() as folder:
        save_wide_model(folder)
        few, many = n_workers, 2 * n_workers
        return {"shape": WIDE, **one_round(n_workers, few, many, TASKS[:1], folder, 1)}


def middle(rounds):
    """Take the median of every figure of the rounds."""

    def of(rows):
        if isinstance(rows[0], dict):
            return {name: of([row[name] for row in rows]) for name in rows[0]}
        return statistics.median(rows)

    return of(rounds)


def main():
    n = os.cpu_count() or 1
    args = arguments(__doc__, rounds=3, few=n, many=3 * n, workers=n, together=2)
    rounds = []
    for _ in range(args.rounds):
        how = args.workers, args.few, args.many, TASKS, "embedded", args.together
        rounds.append(one_round(*how))
        print(json.dumps(rounds[-1]), file=sys.stderr)
    found = {"workers": args.workers, **middle(rounds), "rounds": rounds}
    report(found | {"wider": wider(args.workers)}, args.output)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
    else:
        main()
