"""Run other projects' tools on a dataset, as they are, and write what came out as a page.

    .venv/bin/python scripts/tools_table.py BIDS_DIR --work-dir WORK

The page is docs/reference/tools.md. FitLins takes long (a model of 30 runs of 254,592 units: half
an hour); a finished output in WORK is used again. WORK gets a copy of the dataset made of hard
links, since some tools write into what they read. Nothing in the tables is written by hand.
"""

import argparse
import json
import re
import shutil
import tempfile
import warnings
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
from tools_runs import (
    DERIVATIVE,
    ROOT,
    Work,
    counted,
    fitlins,
    fitlins_rows,
    header_rows,
    last_line,
    nilearn_rows,
    pybids_rows,
    validator_rows,
    walk,
)

from llm2bids.store.json import to_json

PAGE = """# What other projects' tools say of a dataset

Written by `scripts/tools_table.py` on ${date}; do not edit. The dataset: ${about}. The tools were
run as they are, without a line changed. FitLins: [a BIDS Stats Model](../how-to/run-fitlins.md).
nilearn and the model of all tasks were run on ${n_chosen}; that model is the one of a scan of
the tasks ${tasks}.

## What was run

${tools}

"Beside `llm2bids analyze`" compares group maps over the units with those of
`llm2bids analyze --unit-of-analysis token` (AR(1), no drift, no confounds), which is the model that
FitLins fits. The recommended default of `llm2bids analyze`, one image for each prompt, is another
model; its maps differ from these. t is compared by rank: over two participants it has one degree of
freedom, and its largest values are where the two happen to agree.

## What is wrong with the data, and who says so

Each tool on a copy with one fault (of a dataset of ${faulty}).
"Names it" tells whether the message has the label of the space or of the participant that is at
fault.

${bad}

- nilearn raises a `ValueError` that says what is missing and for whom. It stops at the first
  participant without runs or events; `sub_labels` leaves such a participant out.
- pybids and FitLins say that no image matches, not that the space is unknown. Compare
  `Input.space` in the model and `--space` with the folder name `tpl-LABEL` in the derivative.
- pybids and FitLins name neither participant nor run where events are missing. The validator does:
  `EVENTS_TSV_MISSING`. Run `llm2bids validate BIDS_DIR` first.
- pybids and FitLins leave out a participant without runs and say nothing. Count the rows of the
  group's design, or the folders `node-run/sub-*`.
- FitLins crashes with a traceback wherever it stops. Its last line is the message.
"""


def attempt(act):
    """Give what an act says: its result, or its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return act()
        except Exception as error:  # whatever a tool raises is what is asked here
            return f"{type(error).__name__}: {last_line(str(error))}"


def bad_input_rows(work):
    """Try each tool on what is wrong; give input, tool, what it says, whether it names what."""
    task, lacking = work.task, work.participants[1]

    def without_events(copy):
        for path in copy.glob(f"sub-{lacking}/func/*task-{task}_*events.tsv"):
            path.unlink()

    def without_runs(copy):
        for base in (copy, copy / DERIVATIVE):
            shutil.rmtree(base / f"sub-{lacking}/func")

    cases = {
        "a space that does not exist": (work.bids_dir, "Nowhere", "Nowhere"),
        f"task {task} of sub-{lacking} without events": (
            work.spoiled("without-events", without_events),
            work.label,
            lacking,
        ),
        f"sub-{lacking} without runs": (
            work.spoiled("without-runs", without_runs),
            work.label,
            lacking,
        ),
    }
    for index, (wrong, (bids_dir, space, named)) in enumerate(cases.items()):
        model = json.loads(work.model(f"task-{task}").read_text())
        model["Input"]["space"] = [space]
        path = work.folder / f"bad{index}_smdl.json"
        path.write_text(to_json(model))
        acts = {
            "nilearn `first_level_from_bids`": lambda d=bids_dir, s=space: by_nilearn(d, task, s),
            "pybids `BIDSStatsModelsGraph`": lambda d=bids_dir, m=model: by_pybids(d, m),
            "FitLins": lambda d=bids_dir, s=space, p=path, i=index: by_fitlins(work, d, p, s, i),
        }
        for tool, act in acts.items():
            said = attempt(act)
            names = re.search(rf"\b{named}\b", said) is not None
            yield wrong, tool, said.replace("|", "\\|"), "yes" if names else "no"


def by_nilearn(bids_dir, task, space):
    from nilearn.glm.first_level import first_level_from_bids

    models, *_ = first_level_from_bids(bids_dir, task, space, derivatives_folder=DERIVATIVE)
    return f"goes on with {counted(len(models), 'participant')}, no message"


def by_pybids(bids_dir, model):
    from bids import BIDSLayout

    outputs, n_rows = walk(BIDSLayout(bids_dir, derivatives=True), model)
    return f"goes on with {counted(n_rows, 'participant')} ({outputs}), no message"


def by_fitlins(work, bids_dir, model, space, index):
    out = work.folder / f"fitlins-bad{index}"
    options = {"bids_dir": bids_dir, "space": space, "participants": work.participants}
    status, log = fitlins(work, model, out, **options)
    if status == 0:
        n = len(list(out.glob("node-run/sub-*")))
        return f"goes on with {counted(n, 'participant')}, no message"
    trace = "a traceback that ends with " if "Traceback" in log else ""
    return f"exit {status}, {trace}{last_line(log)}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def page(work, faulty, tools, bad):
    filled = {
        "about": described(work.dataset),
        "faulty": described(faulty.dataset),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "n_chosen": counted(len(work.chosen), "participant"),
        "tasks": ", ".join(work.tasks),
        "tools": table(["tool", "version", "what was run", "result"], tools),
        "bad": table(["what is wrong", "tool", "what it says", "names it"], bad),
    }
    text = PAGE
    for name, value in filled.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def described(dataset):
    n_tasks, n_participants = (
        len({getattr(run, name) for run in dataset.runs}) for name in ("task", "participant_label")
    )
    n_volumes = nib.load(dataset.runs[0].bold).shape[3]
    return (
        f"{counted(n_participants, 'participant')}, {counted(n_tasks, 'task')}, "
        f"{counted(len(dataset.runs), 'run')} of {n_volumes} volumes, "
        f"{counted(dataset.space.n_units, 'unit')}, space `{dataset.space.label}`"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/reference/tools.md")
    parser.add_argument("--tasks", nargs="+", help="only these; the first for models of one task")
    parser.add_argument(
        "--n-participants", type=int, help="only so many for nilearn and the model of all tasks"
    )
    parser.add_argument("--faults-in", type=Path, help="another dataset, smaller, for the faults")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.work_dir or Path(scratch)).resolve()
        work = Work(
            arguments.bids_dir,
            folder,
            tasks=arguments.tasks,
            n_participants=arguments.n_participants,
        )
        faulty = Work(arguments.faults_in, folder / "faults") if arguments.faults_in else work
        kinds = (validator_rows, header_rows, pybids_rows, fitlins_rows, nilearn_rows)
        tools = told(row for rows in kinds for row in rows(work))
        bad = told(bad_input_rows(faulty))
        arguments.output.write_text(page(work, faulty, tools, bad))
    print(arguments.output)


def told(rows):
    """Print rows as they come, and keep them."""
    kept = []
    for row in rows:
        print(*row, sep=" | ", flush=True)
        kept.append(row)
    return kept


if __name__ == "__main__":
    main()
