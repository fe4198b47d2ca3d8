"""Peak memory of ``llm2bids record`` over runs and participants, on the embedded model.

Each scan is a process of its own: all sites, runs of 6 prompts with 4 volumes each.

    .venv/bin/python scripts/bench/memory.py --participants 4 --output memory.json
"""

import tempfile
from pathlib import Path

from measure import arguments, report, run_child

from llm2bids.recording.draw import draw_scan

RECORD = "import sys; from llm2bids.cli.main import main; sys.exit(main(sys.argv[1:]))"


def main():
    args = arguments(__doc__, participants=2)
    first = draw_scan(n_participants=1).designs[0].task
    scans = {"1 participant, 1 run": (1, ["--task", first]), "1 participant, 6 runs": (1, [])}
    scans[f"{args.participants} participants, {6 * args.participants} runs"] = (
        args.participants,
        [],
    )
    rows = {}
    for name, (n_participants, options) in scans.items():
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = run_child(
                [
                    "-c", RECORD, "record", Path(folder) / "dataset", "-q",
                    "--participants", str(n_participants), "--prompts-per-block", "2",
                    "--tokens-per-prompt", "4", *options,
                ]
            )  # fmt: skip
    peaks = [row["peak_mb"] for row in rows.values()]
    report({"scans": rows, "last_over_first": peaks[-1] / peaks[0]}, args.output)


if __name__ == "__main__":
    main()
