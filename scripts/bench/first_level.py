"""The first level of ``analyze participant`` beside nilearn's ``FirstLevelModel``, whole brain.

A simulated run is written (237,000 units, 600 tokens by default). Then each fits it in a process of
its own: ordinary least squares on every volume, with the same design. Time and peak memory are
ratios to nilearn's; effects and t are compared unit by unit.

    .venv/bin/python scripts/bench/first_level.py --units 237000 --tokens 600 --output first.json
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from measure import arguments, report, run_child

from llm2bids.dataset.read import open_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.model.units import Site
from llm2bids.recording.calibration import Calibration
from llm2bids.recording.draw import draw_scan
from llm2bids.scan.simulate import simulate_recording
from llm2bids.space.arrange import build_space

N_SITES = 100
T_R = 1.0

OURS = """
import sys
from llm2bids.inference.analyze import analyze_participants
if __name__ == "__main__":
    result = analyze_participants(sys.argv[1], sys.argv[2], unit_of_analysis="token",
                                  noise_model="ols", high_pass=0.01, progress=False)
    assert not result.failed, result.failed
"""

NILEARN = """
import sys, warnings
from pathlib import Path
from nilearn.glm.first_level import FirstLevelModel
import pandas as pd
warnings.simplefilter("ignore")
root, out, grey = map(Path, sys.argv[1:])
(bold,) = root.glob("sub-01/func/*_bold.nii.gz")
(events,) = root.glob("sub-01/func/*_events.tsv")
table = pd.read_csv(events, sep="\\t", usecols=["onset", "duration", "trial_type"])
model = FirstLevelModel(t_r=float(1.0), hrf_model=None, noise_model="ols", high_pass=0.01,
                        signal_scaling=False, mask_img=grey)
model.fit(bold, table.dropna())
(task,) = set(table["trial_type"].dropna())
out.mkdir()
for kind in ("effect_size", "stat"):
    model.compute_contrast(task, output_type=kind).to_filename(out / f"{kind}.nii.gz")
"""


def write_dataset(root, n_units, n_tokens):
    """Write one simulated run."""
    width = n_units // N_SITES
    sites = tuple(
        Site(name=f"model.layers.{n // 4}.m{n % 4}", layer=n // 4, role=f"m{n % 4}", width=width)
        for n in range(N_SITES)
    )
    space = build_space(sites, label="Bench", model_name="bench", weights_sha256="0" * 64)
    scan = draw_scan(n_participants=1, t_r=T_R)
    n_trials = len(scan.designs[0].trials)
    design = replace(scan.designs[0], tokens_per_prompt=n_tokens // n_trials)
    zeros, ones = np.zeros(space.n_units, np.float32), np.ones(space.n_units, np.float32)
    with DatasetWriter.create(
        root, space=space, paradigm=scan.paradigm, settings={}, weight_norms=ones,
        calibration=Calibration(mean=zeros, sd=ones, prompt_ids=("a",), n_tokens=1),
    ) as writer:  # fmt: skip
        writer.write_run(simulate_recording(space, design), t_r=T_R)
        writer.finish_participant(design.participant_label)
    return design.n_volumes


def compare(root, ours, theirs):
    """Largest relative difference of the two maps over the units."""
    dataset = open_dataset(root)
    space, gain = dataset.space, dataset.calibration.counts_per_sd
    found = {}
    for stat, kind, scale in (("effect", "effect_size", gain), ("t", "stat", 1)):
        (path,) = ours.glob(f"sub-01/func/*contrast-*_stat-{stat}_statmap.nii.gz")
        mine = space.to_units(nib.load(path)).astype(np.float64) * scale
        nilearns = space.to_units(nib.load(theirs / f"{kind}.nii.gz")).astype(np.float64)
        found[stat] = float(np.abs(mine - nilearns).max() / np.abs(nilearns).max())
    return found


def main():
    args = arguments(__doc__, units=237_000, tokens=600, rounds=1)
    with tempfile.TemporaryDirectory() as folder:
        root, ours, theirs = (Path(folder) / name for name in ("dataset", "ours", "nilearn"))
        n_volumes = write_dataset(root, args.units, args.tokens)
        space = open_dataset(root).space
        grey = Path(folder) / "grey.nii.gz"
        nib.Nifti1Image(space.grey.astype(np.uint8), space.affine).to_filename(grey)
        script = Path(folder) / "ours.py"
        script.write_text(OURS)
        mine = run_child([script, root, ours])
        nilearns = run_child(["-c", NILEARN, root, theirs, grey])
        result = {
            "units": space.n_units,
            "tokens": n_volumes,
            "analyze_participant": mine,
            "nilearn": nilearns,
            "peak_over_nilearn": mine["peak_mb"] / nilearns["peak_mb"],
            "seconds_over_nilearn": mine["seconds"] / nilearns["seconds"],
            "cpu_seconds_over_nilearn": mine["cpu_seconds"] / nilearns["cpu_seconds"],
            "largest_difference_of_maximum": compare(root, ours, theirs),
        }
    report(result, args.output)


if __name__ == "__main__":
    main()
