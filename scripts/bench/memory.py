"""Peak memory of ``llm2bids record`` over runs and participants, on the embedded model.

Each scan is a process of its own: all sites, runs of 6 prompts with 4 volumes each. The largest
number of participants is given; half and a quarter of it are run too.

    .venv/bin/python scripts/bench/memory.py --participants 8 --output memory.json
"""

import tempfile
from pathlib import Path

from measure import arguments, report, run_child

RECORD = "import sys; from llm2bids.cli.main import main; sys.exit(main(sys.argv[1:]))"


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
    peaks = [row["peak_mb"] for row in rows.values()]
    report({"scans": rows, "last_over_first": peaks[-1] / peaks[0]}, args.output)


if __name__ == "__main__":
    main()
