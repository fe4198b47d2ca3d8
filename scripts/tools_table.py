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
import subprocess
import sys
import tempfile
import warnings
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np

from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.template import to_json
from llm2bids.dataset.validate import find_validator
from llm2bids.inference.analyze import analyze_group, analyze_participants
from llm2bids.network.locate import locate

ROOT = Path(__file__).parents[1]
DERIVATIVE = "derivatives/llm2bids"

PAGE = """# What other projects' tools say of a dataset

Written by `scripts/tools_table.py` on ${date}; do not edit. The dataset: ${about}. The tools were
run as they are, without a line changed. FitLins: [Run FitLins](../how-to/run-fitlins.md).

## What was run

${tools}

"Beside `llm2bids analyze`" compares group maps over the units with those of
`llm2bids analyze --unit-of-analysis token` (AR(1), no drift, no confounds), which is the model that
FitLins fits. The recommended default of `llm2bids analyze`, one image for each prompt, is another
model; its maps differ from these.

## What is wrong with the data, and who says so

Each tool on a copy of the dataset with one fault. "Names it" tells whether the message has the
label of the space or of the participant that is at fault.

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


class Work:
    """The dataset under test, and a folder for what tools write."""

    def __init__(self, bids_dir, folder, task=None):
        self.folder = folder
        self.bids_dir = folder / "dataset"
        if not self.bids_dir.exists():
            subprocess.run(["cp", "-al", bids_dir, self.bids_dir], check=True)
        self.dataset = open_dataset(self.bids_dir)
        self.participants = list(dict.fromkeys(run.participant_label for run in self.dataset.runs))
        self.tasks = list(dict.fromkeys(run.task for run in self.dataset.runs))
        self.task = task or self.tasks[0]
        self.label = self.dataset.space.label

    def model(self, name):
        """Name the file of a BIDS Stats Model."""
        return self.bids_dir / f"code/models/{name}_smdl.json"

    @cached_property
    def difference(self):
        """The first difference of two tasks in the model of all tasks."""
        contrasts = json.loads(self.model("all").read_text())["Nodes"][1]["Contrasts"]
        return next(one for one in contrasts if len(one["ConditionList"]) == 2)

    def spoiled(self, name, spoil):
        """Copy the dataset by hard links and take something away from the copy."""
        copy = self.folder / name
        shutil.rmtree(copy, ignore_errors=True)
        subprocess.run(["cp", "-al", self.bids_dir, copy], check=True)
        spoil(copy)
        return copy


def run(command, **options):
    """Run a program; give its exit status and all it said."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        **options,
    )
    return done.returncode, done.stdout


def counted(n, name):
    return f"{n:,} {name}{'' if n == 1 else 's'}"


def validator_rows(work):
    program = find_validator()
    config = work.bids_dir / "code/bids-validator-config.json"
    silenced = {one["code"] for one in json.loads(config.read_text())["ignore"]}
    for what, folder in (("raw dataset", "."), ("derivative", DERIVATIVE)):
        command = [program, work.bids_dir / folder, "--format", "json", "--max-rows", "-1"]
        report = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
        issues = [one for one in report["issues"]["issues"] if one["severity"] != "ignore"]
        left = [one for one in issues if one["code"] not in silenced]
        n = {kind: sum(one["severity"] == kind for one in left) for kind in ("error", "warning")}
        others = sorted({one["code"] for one in issues} & silenced)
        result = f"{counted(n['error'], 'error')}, {counted(n['warning'], 'warning')} in "
        result += counted(report["summary"]["totalFiles"], "file")
        result += f" (besides {', '.join(others)})" if others else ""
        yield "bids-validator-deno", version("bids-validator-deno"), what, result


def nilearn_rows(work, n_participants):
    from nilearn.glm.first_level import first_level_from_bids
    from nilearn.glm.second_level import SecondLevelModel

    labels = work.participants[:n_participants]
    for hrf_model in ("glover", None):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            models, images, events, confounds = first_level_from_bids(
                work.bids_dir,
                work.task,
                work.label,
                derivatives_folder=DERIVATIVE,
                sub_labels=labels,
                hrf_model=hrf_model,
            )
        said = f"{counted(len(heard), 'warning')}; "
        effects, covered, full, left = [], [], 0, []
        for model, *data in zip(models, images, events, confounds, strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(*data)
            design = model.design_matrices_[0]
            full += np.linalg.matrix_rank(design.to_numpy()) == design.shape[1]
            left.append(share_left(design, work.task))
            mask = model.masker_.mask_img_.get_fdata() > 0
            covered.append((mask & work.dataset.space.grey).sum())
            effects.append(model.compute_contrast(work.task, output_type="effect_size"))
        said += f"{full} of {len(models)} designs of full rank; nilearn's mask has {min(covered):,}"
        said += f" of {work.dataset.space.n_units:,} units; {min(left):.0%} of the task's variance"
        what = f"`first_level_from_bids`, hrf_model {hrf_model!r}, all else its defaults"
        yield "nilearn", version("nilearn"), what, said + " is left by the other columns"
    group = SecondLevelModel().fit(effects, design_matrix=intercept(len(effects)))
    z_map = work.dataset.space.to_units(group.compute_contrast(output_type="z_score"))
    result = f"z from {z_map.min():.1f} to {z_map.max():.1f}, {np.isnan(z_map).sum()} NaN"
    yield "nilearn", version("nilearn"), f"`SecondLevelModel`, {len(effects)} participants", result


def intercept(n):
    import pandas as pd

    return pd.DataFrame({"intercept": np.ones(n)})


def share_left(design, task):
    """Share of a column's variance that the other columns do not explain."""
    column = design[task].to_numpy()
    others = design.drop(columns=[task]).to_numpy()
    rest = column - others @ np.linalg.lstsq(others, column, rcond=None)[0]
    return rest.var() / column.var()


def walk(layout, model):
    """Run a BIDS Stats Model to its last node; describe each node's outputs."""
    from bids.modeling import BIDSStatsModelsGraph

    graph = BIDSStatsModelsGraph(layout, model)
    graph.load_collections()
    node, inputs, said = graph.root_node, None, []
    while node is not None:
        outputs = node.run(inputs, group_by=node.group_by, missing_values="error")
        inputs = [contrast for output in outputs for contrast in output.contrasts]
        said.append(f"{node.name} {len(outputs)}")
        node = node.children[0].destination if node.children else None
    return " -> ".join(said), len(outputs[0].X)


def pybids_rows(work):
    from bids import BIDSLayout
    from bsmschema.models import BIDSStatsModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pybids' own, under current pandas
        layout = BIDSLayout(work.bids_dir, derivatives=True)
        queries = {
            "events": {"suffix": "events", "scope": "raw", "extension": ".tsv"},
            "series": {"suffix": "bold", "space": work.label, "extension": ".nii.gz"},
            "mask": {"suffix": "mask", "datatype": "func", "extension": ".nii.gz"},
            "confounds": {"suffix": "timeseries", "extension": ".tsv"},
        }
        found = ", ".join(f"{name} of {len(layout.get(**q))}" for name, q in queries.items())
        what = "`BIDSLayout(derivatives=True)`"
        result = f"{counted(len(work.dataset.runs), 'run')}: {found}"
        yield "pybids", version("pybids"), what, result
        for name in (f"task-{work.task}", "all"):
            model = json.loads(work.model(name).read_text())
            BIDSStatsModel.model_validate(model)
            yield "bsmschema", version("bsmschema"), f"`{name}_smdl.json`", "valid"
            outputs, n_rows = walk(layout, model)
            what = f"`BIDSStatsModelsGraph` on `{name}_smdl.json`"
            result = f"outputs: {outputs}, over {counted(n_rows, 'participant')}"
            yield "pybids", version("pybids"), what, result


def fitlins(work, model, out, *, bids_dir=None, space=None, level="dataset"):
    """Run FitLins; a finished output is used again. Give exit status and log."""
    log = out.with_suffix(".log")
    if list(out.glob("reports/*.html")):
        return 0, log.read_text() if log.exists() else ""
    made = ROOT / "tests/interop/fitlins/environment.py"
    status, said = run([sys.executable, made])
    if status:
        raise SystemExit(said)
    bids_dir = bids_dir or work.bids_dir
    command = [
        *(Path(said.splitlines()[-1]) / "bin/fitlins", bids_dir, out, level, "--model", model),
        *("--derivatives", bids_dir / DERIVATIVE, "--space", space or work.label),
        *("--estimator", "nilearn", "--work-dir", out.with_suffix(".work"), "--n-cpus", 2),
        "--drop-missing",
    ]
    status, said = run(command)
    log.write_text(said)
    return status, said


def fitlins_rows(work):
    one, every = f"task-{work.task}", "all"
    outs = {name: work.folder / f"fitlins-{name}" for name in (one, every)}
    for name, out in outs.items():
        status, log = fitlins(work, work.model(name), out)
        if status:
            yield "FitLins", "0.11.0", f"`{name}_smdl.json`", f"exit {status}: {last_line(log)}"
            return
        about = json.loads((out / "dataset_description.json").read_text())["PipelineDescription"]
        maps = {
            node.name.removeprefix("node-"): len(list(node.rglob("*stat-effect_statmap.nii.gz")))
            for node in sorted(out.glob("node-*"), reverse=True)
        }
        result = ", ".join(f"{counted(n, 'effect map')} of the {node}" for node, n in maps.items())
        pictures = len(list(out.rglob("*_ortho.png")))
        result += f"; report, {counted(pictures, 'picture')}"
        yield "FitLins", about["Version"], f"`{name}_smdl.json`", result
    ours = our_maps(work)
    for name, out in outs.items():
        contrasts = [work.task] if name == one else [*work.tasks, work.difference["Name"]]
        for contrast in contrasts:
            what = f"`{name}_smdl.json`, {contrast}, beside `llm2bids analyze`"
            yield "FitLins", about["Version"], what, agreement(work, out, ours, contrast)
    effect = outs[one] / f"node-dataset/contrast-{work.task}_stat-effect_statmap.nii.gz"
    units = locate(effect, work.dataset.space, top_percent=0.01)
    result = f"{counted(len(units), 'unit')}, first `{units['address'][0]}`"
    yield "llm2bids", version("llm2bids"), "`locate` on FitLins' effect map, top 0.01 %", result


def our_maps(work):
    """Group maps of the model that FitLins fits: tokens, AR(1), no confounds."""
    out = work.folder / "analyzed"
    if not list(out.glob("group/*.nii.gz")):
        one, other = work.difference["ConditionList"]
        analyze_participants(work.bids_dir, out, unit_of_analysis="token")
        contrasts = {work.difference["Name"]: f"{one} - {other}"}
        analyze_group(work.bids_dir, out, contrasts=contrasts)
    return out


def agreement(work, theirs, ours, contrast, n_peaks=100):
    said = []
    for statistic in ("effect", "t"):
        name = f"stat-{statistic}_statmap.nii.gz"
        (our_map,) = ours.glob(f"group/*contrast-{contrast}_*{name}")
        paths = (theirs / f"node-dataset/contrast-{contrast}_{name}", our_map)
        maps = [work.dataset.space.to_units(nib.load(path)).astype(float) for path in paths]
        first = [np.argsort(-np.abs(values))[:n_peaks] for values in maps]
        shared = len(set(first[0]) & set(first[1]))
        same = "same peak" if first[0][0] == first[1][0] else "another peak"
        r = np.corrcoef(maps)[0, 1]
        said.append(f"{statistic}: r {r:.5f}, {same}, {shared} of {n_peaks} strongest units shared")
    return "; ".join(said)


def header_rows(work):
    run_ = work.dataset.runs[0]
    images = {"series": run_.preproc, "anatomy": run_.bold.parents[1] / "anat"}
    images["anatomy"] = next(images["anatomy"].glob("*_T1w.nii.gz"))
    commands = {
        "nifti_tool": (["nifti_tool", "-check_hdr", "-infiles"], ["nifti_tool", "-ver"]),
        "mrinfo": (["mrinfo"], ["mrinfo", "--version"]),
        "wb_command": (["wb_command", "-file-information"], ["wb_command", "-version"]),
    }
    for program, (command, asked) in commands.items():
        if shutil.which(program) is None:
            continue
        found = re.search(r"\d+\.\d+[.\d]*", run(asked)[1])
        for what, image in images.items():
            status, said = run([*command, image])
            shown = " ".join(command)
            result = f"exit {status}; " + described(program, said)
            yield program, found[0] if found else "", f"`{shown}`, {what}", result


def described(program, said):
    """Pick from what a program says: shape, orientation, time step, or its verdict."""
    kept = {
        "nifti_tool": r"header.*(?:good|bad|valid).*",
        "mrinfo": r"(?:Dimensions|Voxel size|Data strides):.*",
        "wb_command": r"(?:Dimensions|Map Interval Step|Map Interval Units|Spacing|Orientation|"
        r"Number of Maps):.*",
    }[program]
    lines = [re.sub(r"\s+", " ", line).strip() for line in re.findall(kept, said)]
    lines = [re.sub(r"'?/\S*/", "", line) for line in lines]
    return "; ".join(lines) if lines else "warnings" if "warning" in said.lower() else "no warning"


def last_line(log):
    """Give the last line of a log that says something; paths without their folders."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return re.sub(r"/\S*/", "", lines[-1]) if lines else ""


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
    status, log = fitlins(work, model, out, bids_dir=bids_dir, space=space, level="run")
    if status == 0:
        n = len(list(out.glob("node-run/sub-*")))
        return f"goes on with {counted(n, 'participant')}, no message"
    trace = "a traceback that ends with " if "Traceback" in log else ""
    return f"exit {status}, {trace}{last_line(log)}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def page(work, tools, bad):
    text = PAGE
    n_volumes = nib.load(work.dataset.runs[0].bold).shape[3]
    about = (
        f"{counted(len(work.participants), 'participant')}, {counted(len(work.tasks), 'task')}, "
        f"{counted(len(work.dataset.runs), 'run')} of {n_volumes} volumes, "
        f"{counted(work.dataset.space.n_units, 'unit')}, space `{work.label}`"
    )
    filled = {
        "about": about,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "tools": table(["tool", "version", "what was run", "result"], tools),
        "bad": table(["what is wrong", "tool", "what it says", "names it"], bad),
    }
    for name, value in filled.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--task", help="task of the one-task runs (default: the first)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/reference/tools.md")
    parser.add_argument("--n-participants", type=int, default=3, help="for nilearn (default 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.work_dir or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        work = Work(arguments.bids_dir.resolve(), folder.resolve(), arguments.task)
        tools = []
        for rows in (
            validator_rows(work),
            nilearn_rows(work, arguments.n_participants),
            pybids_rows(work),
            fitlins_rows(work),
            header_rows(work),
        ):
            for row in rows:
                print(*row, sep=" | ", flush=True)
                tools.append(row)
        bad = []
        for row in bad_input_rows(work):
            print(*row, sep=" | ", flush=True)
            bad.append(row)
        arguments.output.write_text(page(work, tools, bad))
    print(arguments.output)


if __name__ == "__main__":
    main()
