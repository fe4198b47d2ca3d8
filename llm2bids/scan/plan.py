"""What a scan will take, from the model's configuration and the paradigm alone."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llm2bids.dataset.run import writing_threads
from llm2bids.dataset.volumes import RunSize, run_size
from llm2bids.exceptions import RecordingError
from llm2bids.options import chosen, takes_options
from llm2bids.recording.draw import Scan
from llm2bids.recording.events import high_pass_warning
from llm2bids.recording.record import group_runs
from llm2bids.recording.tokens import first_step
from llm2bids.scan.memory import PROCESS_BYTES, choose_workers, largest_batch, scan_bytes
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.prepare import check_localizer, check_volumes, choose_arrangement
from llm2bids.scan.simulate import Writing, measure_writing
from llm2bids.space.arrange import build_space
from llm2bids.space.space import Space

if TYPE_CHECKING:
    from llm2bids.model.outline import Outline, Pace
    from llm2bids.model.tokenizer import Chat

# Tokens that a chat template puts around a prompt, about, with a short system text of its own.
_TEMPLATE_TOKENS = 32

_CHARACTERS_PER_TOKEN = 4.6  # of the shipped prompts with the embedded model's tokenizer

_START_SECONDS = 6.0  # importing torch and transformers, and finding the sites

_LOADED_PER_SECOND = 1e9  # bytes of weights that are read in a second


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a scan will take."""

    outline: "Outline"
    space: Space
    scan: Scan
    writing: Writing
    run_size: RunSize
    pace: "Pace | None"
    tokens_per_prompt: int  # that are generated
    batch_size: int  # prompts of the largest batch
    n_workers: int  # that record participants at the same time
    worker_bytes: int  # memory of each, beside the weights where they are shared
    memory_bytes: int  # of one process: it depends on the runs of a batch, not on their number
    shard_memory_bytes: int  # of a process that records one shard, with the weights

    @property
    def n_participants(self) -> int:
        """Number of participants."""
        return len({design.participant_label for design in self.scan.designs})

    @property
    def n_volumes(self) -> int:
        """Volumes of all runs."""
        return sum(design.n_volumes for design in self.scan.designs)

    @property
    def _n_prompts(self) -> tuple[int, int]:
        """Prompts of all runs, and those of calibration and localizer."""
        scan = self.scan
        n_resting = len(scan.calibration) + len(scan.localizer)
        return sum(len(design.trials) for design in scan.designs), n_resting

    @property
    def n_tokens(self) -> int:
        """Tokens that are generated: for runs, calibration and localizer."""
        return self.tokens_per_prompt * sum(self._n_prompts)

    @property
    def disk_bytes(self) -> int:
        """Bytes of the dataset; files of several names (hard links) once."""
        runs = sum(self.run_size.of(design.n_volumes) for design in self.scan.designs)
        return self.writing.template_bytes + runs

    @property
    def total_bytes(self) -> int:
        """Most memory of all processes: workers share the weights, which lie in memory once."""
        if self.n_workers == 1:
            return self.memory_bytes
        # the process that waits has given its model back
        shared = PROCESS_BYTES + self.outline.weight_bytes
        return max(self.memory_bytes, shared + self.n_workers * self.worker_bytes)

    @property
    def shard_disk_bytes(self) -> int:
        """Bytes of the largest shard: a participant's runs."""
        sizes: Counter[str] = Counter()
        for design in self.scan.designs:
            sizes[design.participant_label] += self.run_size.of(design.n_volumes)
        return max(sizes.values())

    @property
    def _n_each(self) -> int:
        """Most participants that one worker records."""
        return math.ceil(self.n_participants / self.n_workers)

    @property
    def generation_seconds(self) -> float | None:
        """Seconds of generation on this machine; None where it was not timed."""
        return None if self.pace is None else self._generation(self._n_each, before=True)

    @property
    def writing_seconds(self) -> float:
        """Processor time of writing all runs."""
        n_runs, writing = len(self.scan.designs), self.writing
        return n_runs * writing.run_seconds + self.n_volumes * writing.volume_seconds

    @property
    def total_seconds(self) -> float | None:
        """Seconds from start to end on this machine, without a download."""
        return self._seconds(self._n_each, before=True)

    @property
    def shard_seconds(self) -> float | None:
        """Seconds of one shard on a machine like this one: its runs, and the start."""
        return self._seconds(1, before=False)

    def _generation(self, n_participants: int, *, before: bool) -> float:
        """Time the generation of some participants, one after the other, and what precedes them."""
        assert self.pace is not None
        of_runs, resting = self._n_prompts
        n_prompts = of_runs * n_participants / self.n_participants + (resting if before else 0)
        return self.pace.seconds(self.tokens_per_prompt) * n_prompts / self.batch_size

    def _seconds(self, n_participants: int, *, before: bool) -> float | None:
        """Time a process that starts and records some participants, one after the other."""
        if self.pace is None:
            return None
        start = _START_SECONDS + self.outline.weight_bytes / _LOADED_PER_SECOND
        if before:
            start += self.writing.template_seconds
        generation = self._generation(n_participants, before=before)
        writing = self.writing_seconds * n_participants / self.n_participants
        if self.n_workers == 1:
            writing /= max(writing_threads() / 2, 1)  # two processors are often one core
        if self.pace.uses_processor:  # both want all processors: writing costs its share
            return start + generation + writing
        return start + max(generation, writing)

    def numbers(self) -> dict[str, Any]:
        """List the figures."""
        return {
            "model": self.outline.name,
            "dtype": self.outline.dtype,
            "n_parameters": self.outline.n_parameters,
            "n_sites": len(self.space.sites),
            "n_units": self.space.n_units,
            "space": self.space.label,
            "shape": list(self.space.shape),
            **chosen(self, "n_participants", "n_workers"),
            "n_runs": len(self.scan.designs),
            **chosen(self, "n_volumes", "n_tokens"),
            "repetition_time": self.scan.t_r,
            **chosen(self, "disk_bytes", "memory_bytes", "worker_bytes", "total_bytes"),
            **chosen(self, "generation_seconds", "writing_seconds", "total_seconds"),
            **chosen(self, "shard_disk_bytes", "shard_memory_bytes", "shard_seconds"),
        }

    def describe(self) -> str:
        """Say it in a few lines."""
        outline, scan = self.outline, self.scan
        shape = " x ".join(map(str, self.space.shape))
        per_task = sorted({design.n_volumes for design in scan.designs})
        volumes = " or ".join(map(str, per_task))
        lines = [
            f"{outline.name} ({outline.dtype}): {len(self.space.sites)} sites, "
            f"{self.space.n_units:,} units, {outline.n_parameters:,} parameters",
            f"space {self.space.label}: {shape} voxels",
            f"{scan.paradigm.name}: {self.n_participants} participants, {len(scan.designs)} runs "
            f"of {volumes} volumes, {self.n_volumes:,} volumes, {self.n_tokens:,} tokens to "
            "generate",
            f"disk: {_size(self.disk_bytes)} ({_size(round(self.run_size.volume))} a volume)",
            f"memory: {_size(self.total_bytes)}, whatever the number of runs"
            + (
                f" ({self.n_workers} workers of {_size(self.worker_bytes)}, and what they share)"
                if self.n_workers > 1
                else ""
            ),
        ]
        if self.n_participants > 1:
            taken = "" if self.pace is None else f", about {_duration(self.shard_seconds or 0)}"
            lines.append(
                "a participant as a shard (--participant-label): "
                f"{_size(self.shard_disk_bytes)} on disk, {_size(self.shard_memory_bytes)} of "
                f"memory{taken}"
            )
        drift = high_pass_warning(scan.designs, scan.t_r)
        lines += [f"warning: {drift}"] if drift else []
        if self.pace is None:
            return "\n".join([*lines, "time: not measured (--no-time)"])
        generation, total = self.generation_seconds or 0.0, self.total_seconds or 0.0
        rate = self.n_tokens / generation
        lines.append(
            f"time: about {_duration(total)} on this machine as busy as it is now "
            f"(generation {_duration(generation)} at {rate:.3g} tokens/s, writing "
            f"{_duration(self.writing_seconds)} of processor time beside it); "
            f"timed on {' and '.join(map(str, self.pace.n_layers))} layers of random weights"
        )
        return "\n".join(lines)


@takes_options(ScanOptions)
def plan(*, time: bool = True, **options: Any) -> Plan:
    """Work out what a scan will take, without the model's weights."""
    # bytes come from a few simulated runs that are written and weighed; time from a batch on random
    # weights, of a few layers where the model is large
    from llm2bids.model.device import check_device, computing_threads
    from llm2bids.model.outline import outline as outline_of
    from llm2bids.model.sites import select_sites

    asked = ScanOptions(**options)
    choice = choose_arrangement(asked)
    scan = asked.draw(localizer_prompts=choice.localizer_prompts)
    check_volumes(scan)
    how = chosen(asked, "dtype", "revision", "trust_remote_code", "adapter")
    outline = outline_of(asked.model, **how)
    n_tokens = scan.paradigm.tokens_per_prompt + first_step(asked.keep_first)
    if n_tokens >= outline.max_length:
        raise RecordingError(
            f"{n_tokens} tokens to generate after a prompt exceed the context of {outline.name} "
            f"({outline.max_length} tokens); take fewer (--tokens-per-prompt)"
        )
    chat = asked.choose_chat(scan.paradigm)
    sites = select_sites(outline.sites, asked.sites)
    check_localizer(choice, scan, sites)
    settings = asked.settings(scan, sites, outline)
    space = build_space(
        sites, label=settings["space_label"], model_name=outline.name, weights_sha256="0" * 64
    )
    groups = group_runs(scan.designs, batch_size=asked.batch_size, n_units=space.n_units)
    batch_size = largest_batch(groups, asked)
    with computing_threads(asked.device, asked.n_threads):  # as a worker computes
        pace = _pace(outline, sites, scan, batch_size, asked.device, chat) if time else None
    process_bytes = partial(
        scan_bytes, space, scan, groups, asked, n_vocabulary=outline.n_vocabulary
    )
    shared = asked.dtype == "auto" and asked.adapter is None and asked.random_weights is None
    shard_bytes = process_bytes(tables=False)
    worker_bytes = shard_bytes + (0 if shared else outline.weight_bytes)
    n_workers = choose_workers(
        asked,
        scan.designs,
        device=str(check_device(asked.device)),
        n_parameters=outline.n_parameters,
        worker_bytes=worker_bytes,
    )
    return Plan(
        outline=outline,
        space=space,
        scan=scan,
        writing=measure_writing(space, scan, settings),
        run_size=run_size(space, settings),
        pace=pace,
        tokens_per_prompt=n_tokens,
        batch_size=batch_size,
        n_workers=n_workers,
        worker_bytes=worker_bytes,
        memory_bytes=outline.weight_bytes + process_bytes(tables=True),
        shard_memory_bytes=outline.weight_bytes + shard_bytes,
    )


def _pace(
    outline: "Outline",
    sites: Sequence[Any],
    scan: Scan,
    n_prompts: int,
    device: str,
    chat: "Chat | None",
) -> "Pace":
    """Time a batch of the longest run, its prompts as long as its longest."""
    from llm2bids.model.outline import measure_pace

    design = max(scan.designs, key=lambda design: len(design.trials))
    longest = max(len(trial.prompt.text) for trial in design.trials)
    length = math.ceil(longest / _CHARACTERS_PER_TOKEN)
    if chat is not None:
        length += _TEMPLATE_TOKENS + math.ceil(len(chat.system or "") / _CHARACTERS_PER_TOKEN)
    if design.context == "carry":  # what was said before stays: half of it, on average
        length *= len(design.trials) // 2 or 1
    return measure_pace(
        outline,
        sites,
        n_prompts=n_prompts,
        prompt_tokens=length,
        sampling=design.sampling,
        device=device,
    )


def _size(n_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes / 1e3:.3g} kB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
