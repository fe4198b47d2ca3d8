"""Peak memory of ``llm2bids record`` over runs and participants, on the embedded model.

Each scan is a process of its own: all sites, runs of 6 prompts with 4 volumes each. The largest
number of participants is given; half and a quarter of it are run too. Then two workers record two
participants with the defaults: the most that all processes take together, pages that they share
counted once, beside what ``llm2bids plan`` said.

    .venv/bin/python scripts/bench/memory.py --participants 8 --output memory.json
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from measure import arguments, report, run_child

from llm2bids.scan.plan import plan

RECORD = "import sys; from llm2bids.cli.main import main; sys.exit(main(sys.argv[1:]))"


def watched(out, n):
    """Record with workers; the most memory of all processes together."""
    size = ["--participants", str(n), "--n-workers", str(n)]
    command = [sys.executable, "-c", RECORD, "record", str(out), "-q", *size]
    process = subprocess.Popen(command)
    most = 0
    while process.poll() is None:
        now = 0
        with suppress(psutil.Error):
            parent = psutil.Process(process.pid)
            for one in (parent, *parent.children(recursive=True)):
                with suppress(psutil.Error):
                    now += one.memory_full_info().pss
        most = max(most, now)
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"record: exit code {process.returncode}")
    return most


def main():
    args = arguments(__doc__, participants=8)
    rows = {}
    for n_participants in sorted({args.participants // part for part in (4, 2, 1)} - {0}):
        with tempfile.TemporaryDirectory() as folder:
            rows[f"{n_participants} participants, {6 * n_participants} runs"] = run_child(
                [
                    "-c", RECORD, "record", Path(folder) / "dataset", "-q",
                    "--participants", str(n_participants), "--prompts-per-block", "2",
                    "--tokens-per-prompt", "4",
                ]
            )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        found = watched(Path(folder) / "dataset", 2)
    planned = plan(n_participants=2, n_workers=2, time=False).total_bytes
    peaks = [row["peak_mb"] for row in rows.values()]
    report(
        {
            "scans": rows,
            "last_over_first": peaks[-1] / peaks[0],
            "workers": {"found": found, "planned": planned},
        },
        args.output,
    )


if __name__ == "__main__":
    main()
