"""Runs of other projects' tools on a dataset, each described in a row of a table.

Every function gives rows of tool, version, what was run, and what came out; `tools_table.py` writes
them down.
"""

import json
import re
import shutil
import subprocess
import sys
import warnings
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from llm2bids.dataset.first_files import all_tasks_model
from llm2bids.dataset.locate import locate
from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.validate import find_validator
from llm2bids.inference.analyze import analyze_group, analyze_participants
from llm2bids.store.json import to_json

ROOT = Path(__file__).parents[1]
DERIVATIVE = "derivatives/llm2bids"


class Work:
    """The dataset under test, and a folder for what tools write."""

    def __init__(self, bids_dir, folder, *, tasks=None, n_participants=None):
        self.folder = folder
        self.bids_dir = folder / "dataset"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.bids_dir.exists():
            subprocess.run(["cp", "-al", bids_dir.resolve(), self.bids_dir], check=True)
        self.dataset = open_dataset(self.bids_dir)
        self.participants = list(dict.fromkeys(run.participant_label for run in self.dataset.runs))
        self.tasks = list(dict.fromkeys(run.task for run in self.dataset.runs))
        self.chosen = self.participants[:n_participants]
        if tasks:
            self.tasks = tasks
            self._narrow()
        self.task = self.tasks[0]
        self.label = self.dataset.space.label

    def _narrow(self):
        """Write the model of all tasks as a scan of these tasks alone would have it."""
        known = {task.label: task for task in self.dataset.paradigm.tasks}
        tasks = [known[task] for task in self.tasks]
        path = self.model("all")
        path.unlink()  # a hard link to the dataset's own
        path.write_text(to_json(all_tasks_model(tasks, self.dataset.fields)))

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


def nilearn_rows(work):
    from nilearn.glm.first_level import first_level_from_bids
    from nilearn.glm.second_level import SecondLevelModel

    for hrf_model in ("glover", None):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            models, images, events, confounds = first_level_from_bids(
                work.bids_dir,
                work.task,
                work.label,
                derivatives_folder=DERIVATIVE,
                sub_labels=work.chosen,
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


def fitlins(work, model, out, *, bids_dir=None, space=None, participants=None):
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
        *(Path(said.splitlines()[-1]) / "bin/fitlins", bids_dir, out, "dataset", "--model", model),
        *("--derivatives", bids_dir / DERIVATIVE, "--space", space or work.label),
        *("--estimator", "nilearn", "--work-dir", out.with_suffix(".work"), "--n-cpus", 2),
        *("--drop-missing", "--participant-label", *(participants or work.chosen)),
    ]
    status, said = run(command)
    log.write_text(said)
    return status, said


def fitlins_rows(work):
    one, every = f"task-{work.task}", "all"
    chosen = {one: (work.participants, [work.task]), every: (work.chosen, work.tasks)}
    for name, (participants, tasks) in chosen.items():
        out = work.folder / f"fitlins-{name}"
        status, log = fitlins(work, work.model(name), out, participants=participants)
        what = f"`{name}_smdl.json`, {counted(len(participants), 'participant')}"
        if status:
            yield "FitLins", "0.11.0", what, f"exit {status}: {last_line(log)}"
            continue
        about = json.loads((out / "dataset_description.json").read_text())["PipelineDescription"]
        maps = {
            node.name.removeprefix("node-"): len(list(node.rglob("*stat-effect_statmap.nii.gz")))
            for node in sorted(out.glob("node-*"), reverse=True)
        }
        result = ", ".join(f"{counted(n, 'effect map')} of the {node}" for node, n in maps.items())
        pictures = len(list(out.rglob("*_ortho.png")))
        result += f"; report, {counted(pictures, 'picture')}"
        yield "FitLins", about["Version"], what, result
        ours = our_maps(work, name, participants, tasks)
        for contrast in tasks if name == one else [*tasks, work.difference["Name"]]:
            result = agreement(work, out, ours, contrast)
            what = f"`{name}_smdl.json`, {contrast}, beside `llm2bids analyze`"
            yield "FitLins", about["Version"], what, result
    effect = f"fitlins-{one}/node-dataset/contrast-{work.task}_stat-effect_statmap.nii.gz"
    units = locate(work.folder / effect, work.dataset.space, top_percent=0.01)
    result = f"{counted(len(units), 'unit')}, first `{units['address'][0]}`"
    yield "llm2bids", version("llm2bids"), "`locate` on FitLins' effect map, top 0.01 %", result


def our_maps(work, name, participants, tasks):
    """Group maps of the model that FitLins fits: tokens, AR(1), no confounds."""
    out = work.folder / f"analyzed-{name}"
    if not list(out.glob("group/*.nii.gz")):
        options = {"participant_label": participants, "task": tasks, "progress": False}
        analyze_participants(work.bids_dir, out, unit_of_analysis="token", **options)
        one, other = work.difference["ConditionList"]
        contrasts = {work.difference["Name"]: f"{one} - {other}"} if len(tasks) > 1 else None
        analyze_group(work.bids_dir, out, contrasts=contrasts, **options)
    return out


def agreement(work, theirs, ours, contrast, n_peaks=100):
    """Compare two group maps: effects by value, t by rank (its tails are long in small groups)."""
    pairs = {}
    for statistic in ("effect", "t"):
        name = f"stat-{statistic}_statmap.nii.gz"
        (our_map,) = ours.glob(f"group/*contrast-{contrast}_*{name}")
        paths = (theirs / f"node-dataset/contrast-{contrast}_{name}", our_map)
        pairs[statistic] = [
            pd.Series(work.dataset.space.to_units(nib.load(path)).astype(float)) for path in paths
        ]
    first = [values.abs().nlargest(n_peaks).index for values in pairs["effect"]]
    r, rank_r = pairs["effect"][0].corr(pairs["effect"][1]), rank_correlation(*pairs["t"])
    return (
        f"effect: r {r:.5f}, {'same' if first[0][0] == first[1][0] else 'another'} peak, "
        f"{len(first[0].intersection(first[1]))} of the {n_peaks} strongest units shared; "
        f"t: rank correlation {rank_r:.5f}"
    )


def rank_correlation(one, other):
    return one.rank().corr(other.rank())


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
        "nifti_tool": r"header .*(?:good|bad)",
        "mrinfo": r"(?:Dimensions|Voxel size|Data strides):.*",
        "wb_command": r"(?:Dimensions|Map Interval Step|Map Interval Units|Spacing|Orientation|"
        r"Number of Maps):.*",
    }[program]
    found = re.findall(kept, said, re.IGNORECASE)
    lines = [re.sub(r"\s+", " ", line).strip() for line in found]
    lines = [re.sub(r"'?/\S*/", "", line) for line in lines]
    return "; ".join(lines) if lines else "warnings" if "warning" in said.lower() else "no warning"


def last_line(log):
    """Give the last line of a log that says something; paths without their folders."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return re.sub(r"/\S*/", "", lines[-1]) if lines else ""
