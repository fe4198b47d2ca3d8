"""The data that a map was made from, and the guard against testing a map on its own data.

Maps that define a network must never come from the data that test it (Kriegeskorte et al. 2009,
Circular analysis in systems neuroscience, Nature Neuroscience 12, 535). Prompts count as data:
participants who saw the same prompts share their errors.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from llm2bids.dataset.layout import Run
from llm2bids.dataset.read import Dataset
from llm2bids.exceptions import InferenceError, NetworkError
from llm2bids.space.space import Space

if TYPE_CHECKING:
    from llm2bids.inference.inputs import Inputs

log = logging.getLogger(__name__)

Level = Literal["participants", "runs", "prompts"]
LEVELS: tuple[Level, ...] = get_args(Level)

_NAMED, _MOST_NAMED = 5, 10
_PROMPTS: tuple[Level, ...] = ("prompts",)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Participants (without ``sub-``), runs and prompts, on and off, that a map was made from.

    >>> first = Provenance.of(participants=["01"], prompts=["p1", "p2"])
    >>> first.overlap(Provenance.of(participants=["02"], prompts=["p2", "p3"])).prompts
    frozenset({'p2'})
    """

    participants: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()
    prompts: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        *,
        participants: Iterable[str] = (),
        runs: Iterable[str] = (),
        prompts: Iterable[str] = (),
    ) -> "Provenance":
        """Take names from any collections."""
        if any(isinstance(part, str) for part in (participants, runs, prompts)):
            raise TypeError("names of participants, runs and prompts are lists")
        names = (frozenset(map(str, part)) for part in (participants, runs, prompts))
        return cls(**dict(zip(LEVELS, names, strict=True)))

    @classmethod
    def of_run(cls, run: Run, prompts: Iterable[str]) -> "Provenance":
        """Take a run and prompts that it shows."""
        return cls.of(participants=[run.participant_label], runs=[run.name], prompts=prompts)

    @classmethod
    def of_runs(cls, dataset: Dataset, runs: Iterable[Run]) -> "Provenance":
        """Take runs of a dataset, with all prompts that they show."""
        return cls.union(cls.of_run(run, dataset.transcript(run)["prompt_id"]) for run in runs)

    @classmethod
    def union(cls, parts: Iterable["Provenance"]) -> "Provenance":
        """Unite the provenances of everything that went into a map."""
        kept = tuple(parts)
        return cls(
            **{level: frozenset().union(*(p.names(level) for p in kept)) for level in LEVELS}
        )

    @classmethod
    def read(cls, sidecar: Mapping[str, Any], path: Path | str) -> "Provenance":
        """Read what `sidecar` wrote; `path` is for the message."""
        try:
            return cls.of(**{level: sidecar[level.capitalize()] for level in LEVELS})
        except (KeyError, TypeError) as error:
            raise InferenceError(
                f"{path}: the provenance that llm2bids writes is missing or damaged ({error}); "
                "run llm2bids analyze again"
            ) from None

    def sidecar(self) -> dict[str, list[str]]:
        """Give the names, sorted, under the keys of a sidecar."""
        return {level.capitalize(): sorted(self.names(level)) for level in LEVELS}

    def names(self, level: Level) -> frozenset[str]:
        """Give the names of one level."""
        named: frozenset[str] = getattr(self, level)
        return named

    def overlap(self, other: "Provenance", levels: Collection[Level] = LEVELS) -> "Provenance":
        """Find the names that both hold."""
        return Provenance(**{level: self.names(level) & other.names(level) for level in levels})

    def __or__(self, other: "Provenance") -> "Provenance":
        return Provenance.union((self, other))

    def __bool__(self) -> bool:
        return any(self.names(level) for level in LEVELS)

    def __str__(self) -> str:
        parts = [_name(level, self.names(level)) for level in LEVELS if self.names(level)]
        return "; ".join(parts) or "nothing"


def require_disjoint(
    defining: Provenance,
    testing: Provenance,
    *,
    what: str,
    allow_circular: bool = False,
    levels: Collection[Level] = LEVELS,
) -> Provenance:
    """Refuse to test something on data that defined it; give what is shared where it is allowed."""
    shared = defining.overlap(testing, levels)
    if shared and not allow_circular:
        raise NetworkError(
            f"{what}: the data that define and the data that test share {shared}; expected none; "
            "use other participants and prompts, or ask for it with allow_circular "
            "(--allow-circular), which is then said on the result"
        )
    return shared


def require_apart(
    parts: Sequence[Provenance], *, what: str, allow_circular: bool = False
) -> Provenance:
    """Refuse to measure agreement between participants who share prompts, or are alone."""
    if len(parts) < 2:
        raise NetworkError(
            f"{what}: found {len(parts)} participant; expected two or more; record more"
        )
    return Provenance.union(
        require_disjoint(
            first,
            second,
            what=f"{what} ({' and '.join(sorted(first.participants | second.participants))})",
            allow_circular=allow_circular,
            levels=_PROMPTS,
        )
        for first, second in combinations(parts, 2)
    )


def circularity_note(shared: Provenance) -> str:
    """Say on a result that it was tested on data that defined it; empty where nothing is shared.

    >>> circularity_note(Provenance.of(prompts=["p1"]))
    'CIRCULAR, no evidence: defining and testing data share 1 prompt (p1).'
    """
    return f"CIRCULAR, no evidence: defining and testing data share {shared}." if shared else ""


def circularity_caution(space: Space, prompts: Iterable[str]) -> dict[str, object]:
    """Say in a map's sidecar that its units were arranged by prompts that it was made from."""
    message = _shared_with_arrangement(space, prompts)
    return {"CircularityCaution": f"CIRCULAR, no evidence: {message}"} if message else {}


def check_arrangement_prompts(
    inputs: "Inputs", prompts: Iterable[str], *, allow_circular: bool = False
) -> None:
    """Refuse an arrangement that was learned from prompts that are analysed.

    Units that chance made alike on these prompts would lie side by side, and their chance would
    look like a cluster.
    """
    message = _shared_with_arrangement(inputs.space, prompts)
    if message and not allow_circular:
        raise InferenceError(
            f"{inputs.bids_dir}: {message} Analyse other runs, record with an arrangement of other "
            "prompts, or go on with --allow-circular, which is not a result to report"
        )
    if message:
        log.warning("circular: %s", message)


def _shared_with_arrangement(space: Space, prompts: Iterable[str]) -> str:
    """Say which prompts an arrangement was learned from; empty where none."""
    learned = () if space.layout is None else space.layout.prompt_ids
    shared = sorted(set(prompts).intersection(learned))
    if not shared:
        return ""
    more = f" and {len(shared) - _MOST_NAMED} more" if len(shared) > _MOST_NAMED else ""
    return (
        f"the arrangement of space {space.label} was learned from {len(shared)} prompts that the "
        f"analysed runs show: {', '.join(shared[:_MOST_NAMED])}{more}; clusters and smoothed maps "
        "of these runs are circular."
    )


def _name(level: Level, names: frozenset[str]) -> str:
    word = level[:-1] if len(names) == 1 else level
    shown = ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {word} ({shown})"
