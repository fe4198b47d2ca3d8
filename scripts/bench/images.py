"""Writing a series as .nii.gz: `write_volumes` beside nibabel, on a recorded run's volumes.

A run of the embedded model (all sites) is encoded; then each writer in turn, round by round,
writes the same volumes: `write_volumes` with as many threads as `record` gives it, and with one.
Time and size are ratios to nibabel's default. Two writes are compared byte by byte, the content
with nibabel's, and the header by ``nifti_tool`` where it is installed.

    .venv/bin/python scripts/bench/images.py --volumes 48 --output images.json
"""

import hashlib
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from measure import arguments, report, spent

from llm2bids.dataset.run import writing_threads
from llm2bids.dataset.volumes import write_volumes
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.recording.calibration import RestScan, calibrate
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_run
from llm2bids.space.arrange import build_space
from llm2bids.space.header import image_header
from llm2bids.space.image import SeriesEncoder
from llm2bids.store.gzip import COMPRESSION_LEVEL


def recorded_volumes(n_volumes):
    """Record part of a run and encode it."""
    loaded = load_model()
    sites = select_sites(find_sites(loaded), ["all"])
    scan = draw_scan(n_participants=1, prompts_per_block=-(-n_volumes // 36))
    how = RestScan(tokens_per_prompt=12, sampling=scan.paradigm.sampling, seed=1)
    calibration = calibrate(loaded, scan.calibration[:8], sites, how)
    space = build_space(
        sites, label="Bench", model_name=loaded.name, weights_sha256=loaded.weights_sha256
    )
    values = record_run(loaded, scan.designs[0], sites).values[:n_volumes]
    (volumes,) = SeriesEncoder(values, space, calibration, seed=1).blocks(len(values))
    return space, volumes


def write_ours(path, header, volumes, n_jobs):
    blocks = (volumes[start : start + 16].T for start in range(0, len(volumes), 16))
    write_volumes(path, header, blocks, n_jobs=n_jobs)


def header_check(path):
    """Let nifti_tool check a header."""
    if shutil.which("nifti_tool") is None:
        return "nifti_tool is not installed (Debian: nifti-bin)"
    command = ["nifti_tool", "-check_hdr", "-infiles", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().replace(str(path.parent), ".")


def main():
    args = arguments(__doc__, volumes=48, rounds=2)
    space, volumes = recorded_volumes(args.volumes)
    header = image_header(
        space, fingerprint="0" * 64, dtype="int16", n_volumes=len(volumes), t_r=1.0
    )
    n_jobs = writing_threads()
    taken = {"llm2bids": [], "llm2bids_one_thread": [], "nibabel": []}
    with tempfile.TemporaryDirectory() as folder:
        ours, again, theirs = (Path(folder) / f"{name}.nii.gz" for name in ("a", "b", "nibabel"))
        image = nib.Nifti1Image(volumes.T, space.affine, header)
        for _ in range(args.rounds):
            taken["llm2bids"].append(spent(lambda: write_ours(ours, header, volumes, n_jobs)))
            taken["llm2bids_one_thread"].append(
                spent(lambda: write_ours(again, header, volumes, 1))
            )
            taken["nibabel"].append(spent(lambda: nib.save(image, theirs)))
        median, used = (
            {name: statistics.median(row[i] for row in rows) for name, rows in taken.items()}
            for i in (0, 1)
        )
        size = {"llm2bids": ours.stat().st_size, "nibabel": theirs.stat().st_size}
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (ours, again)}
        result = {
            "level": COMPRESSION_LEVEL,
            "n_jobs": n_jobs,
            "volumes": len(volumes),
            "voxels": int(np.prod(space.shape)),
            "seconds": median,
            "cpu_seconds": used,
            "bytes": size,
            "times_faster": median["nibabel"] / median["llm2bids"],
            "times_faster_with_one_thread": median["nibabel"] / median["llm2bids_one_thread"],
            "times_less_processor_time": used["nibabel"] / used["llm2bids"],
            "size_over_nibabel": size["llm2bids"] / size["nibabel"],
            "same_bytes_with_one_thread": len(digests) == 1,
            "same_content_as_nibabel": bool(
                np.array_equal(nib.load(ours).dataobj, nib.load(theirs).dataobj)
            ),
            "nifti_tool": header_check(ours),
        }
    report(result, args.output)


if __name__ == "__main__":
    main()
