"""Seconds of the help text, and of the embedded model's second start.

.venv/bin/python scripts/bench/start.py --output start.json
"""

import subprocess
import sys

from measure import arguments, report, run_child

HELP = "from llm2bids.cli.main import main; main(['--help'])"
LOADED = (
    "import contextlib, io, sys\n"
    "from llm2bids.cli.main import main\n"
    "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
    "    main(['--help'])\n"
    "print(*sorted({'torch', 'transformers', 'nilearn', 'pandas'} & set(sys.modules)))"
)
IMPORTS = "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer"
START = "from llm2bids.model.load import load_model; load_model()"


def best(rows):
    """Take the quickest of some runs: seconds, and processor seconds."""
    return {name: min(row[name] for row in rows) for name in ("seconds", "cpu_seconds")}


def main():
    args = arguments(__doc__, rounds=4)
    run_child(["-c", START])  # makes the cache where there is none
    helps, starts, bare = [], [], []
    for _ in range(args.rounds):
        bare.append(run_child(["-c", IMPORTS]))
        helps.append(run_child(["-c", HELP]))
        starts.append(run_child(["-c", START]))
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    report(
        {
            "help": best(helps),
            "imported_by_help": loaded.stdout.split(),
            "second_start": best(starts),
            "import_of_torch_and_transformers": best(bare),
        },
        args.output,
    )


if __name__ == "__main__":
    main()
