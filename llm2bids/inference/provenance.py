"""The data that a map was made from, and the guard against testing a map on its own data.

Maps that define a network must never come from the data that test it (Kriegeskorte et al. 2009,
Circular analysis in systems neuroscience, Nature Neuroscience 12, 535). Prompts count as data:
participants who saw the same prompts share their errors.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from llm2bids.exceptions import InferenceError, NetworkError

Level = Literal["participants", "runs", "prompts"]
LEVELS: tuple[Level, ...] = get_args(Level)

_NAMED = 5
_PROMPTS: tuple[Level, ...] = ("prompts",)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Participants (without ``sub-``), runs and prompts, on and off, that a map was made from.

    Examples
    --------
    >>> one = Provenance.of(participants=["01"], runs=["sub-01_task-tea"], prompts=["p1", "p2"])
    >>> two = Provenance.of(participants=["02"], runs=["sub-02_task-tea"], prompts=["p2", "p3"])
    >>> one.overlap(two).prompts
    frozenset({'p2'})
    >>> sorted((one | two).participants)
    ['01', '02']
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
        names = (frozenset(map(str, part)) for part in (participants, runs, prompts))
        return cls(**dict(zip(LEVELS, names, strict=True)))

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

    def overlap(self, other: "Provenance") -> "Provenance":
        """Find the names that both hold."""
        return Provenance(**{level: self.names(level) & other.names(level) for level in LEVELS})

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
    """Refuse to test something on data that defined it; give what is shared where it is allowed.

    Examples
    --------
    >>> one = Provenance.of(participants=["01"], prompts=["p1"])
    >>> bool(require_disjoint(one, Provenance.of(prompts=["p2"]), what="identification"))
    False
    """
    common = defining.overlap(testing)
    shared = Provenance(**{level: common.names(level) for level in levels})
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
            one,
            two,
            what=f"{what} ({' and '.join(sorted(one.participants | two.participants))})",
            allow_circular=allow_circular,
            levels=_PROMPTS,
        )
        for one, two in combinations(parts, 2)
    )


def circularity_note(shared: Provenance) -> str:
    """Say on a result that it was tested on data that defined it; empty where nothing is shared.

    Examples
    --------
    >>> circularity_note(Provenance.of(prompts=["p1"]))
    'CIRCULAR, no evidence: defining and testing data share 1 prompt (p1).'
    """
    return f"CIRCULAR, no evidence: defining and testing data share {shared}." if shared else ""


def _name(level: Level, names: frozenset[str]) -> str:
    word = level[:-1] if len(names) == 1 else level
    shown = ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {word} ({shown})"
