"""What memory a scan takes, and how many workers it serves."""

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from joblib import cpu_count

from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.batches import DEFAULT_BATCH_SIZE, LARGEST
from llm2bids.recording.calibration import CALIBRATION_BATCH_SIZE
from llm2bids.recording.draw import Scan
from llm2bids.scan.options import ScanOptions
from llm2bids.space.space import Space

log = logging.getLogger(__name__)

# Memory of a process that has torch and transformers loaded and no model.
PROCESS_BYTES = 480_000_000

# Memory for each unit while the template's tables are made, and for what stays of the space.
_BYTES_PER_UNIT = 700

# Work (volumes x parameters) up to which one process is done before others have started.
_SOONER_ALONE = 2e11


def largest_batch(groups: Sequence[Sequence[RunDesign]], options: ScanOptions) -> int:
    """Count the prompts of the largest batch."""
    if groups[0][0].context == "carry":
        return 1
    largest = max(sum(len(design.trials) for design in group) for group in groups)
    return min(options.batch_size or DEFAULT_BATCH_SIZE, largest)


def scan_bytes(
    space: Space,
    scan: Scan,
    groups: Sequence[Sequence[RunDesign]],
    options: ScanOptions,
    *,
    n_vocabulary: int,
    tables: bool,
) -> int:
    """Estimate the memory of a process that scans, without the weights.

    Values, a batch in the model, volumes; `tables` where it writes the template too, as one of
    several workers does not.
    """
    n_units = space.n_units
    longest = max(sum(design.n_volumes for design in group) for group in groups)
    values = min(4 * longest * n_units, LARGEST)
    logits = 5 * 4 * largest_batch(groups, options) * n_vocabulary
    volumes = (8 + 8 + 8 + 8 + 2 * 4) * math.prod(space.shape)
    recording = min(2, len(groups)) * values + volumes
    if tables:
        resting = min(CALIBRATION_BATCH_SIZE, len(scan.calibration))
        recording = max(recording, 4 * resting * scan.paradigm.tokens_per_prompt * n_units)
    recording += logits + 60 * n_units
    return PROCESS_BYTES + max(recording, _BYTES_PER_UNIT * n_units if tables else 0)


def available_bytes() -> int:
    """Count the memory that processes may still take: of the machine, or of this job's share."""
    free = int(psutil.virtual_memory().available)
    for name, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        folder = Path(name)
        with suppress(OSError, ValueError):  # "max": no limit
            cached = _cached(folder / "memory.stat")
            taken = int((folder / used).read_text()) - cached
            free = min(free, int((folder / limit).read_text()) - taken)
    return free


def _cached(stat: Path) -> int:
    """Count the pages of files that the system gives back when memory is short."""
    for line in stat.read_text().splitlines():
        name, _, number = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(number)
    return 0


def choose_workers(
    options: ScanOptions,
    designs: Sequence[RunDesign],
    *,
    device: str,
    n_parameters: int,
    worker_bytes: int,
) -> int:
    """Choose how many processes record the participants of these runs, and say why not more."""
    n_participants = len({design.participant_label for design in designs})
    work = n_parameters * sum(design.n_volumes for design in designs)
    if options.n_workers is None and work < _SOONER_ALONE:
        return 1
    processors = max(int(cpu_count()) // options.n_threads, 1)
    n_workers = min(options.n_workers or processors, max(n_participants, 1))
    if n_workers > 1 and device != "cpu":
        log.info("one worker: all would generate on %s", device)
        return 1
    free = available_bytes()
    served = max(free // max(worker_bytes, 1), 1)
    if n_workers > served:
        text = "%d worker%s in place of %d: one takes about %.1f GB, and %.1f GB of memory are free"
        plural = "s" if served > 1 else ""
        log.warning(text, served, plural, n_workers, worker_bytes / 1e9, free / 1e9)
        return int(served)
    return n_workers
