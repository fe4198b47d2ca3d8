"""Where a derived object comes from, and the guard against testing it on its own data.

Maps that define a network must never come from the data that test it (Kriegeskorte et al. 2009,
Circular analysis in systems neuroscience, Nature Neuroscience 12, 535). Prompts count as data:
participants who saw the same prompts share their errors.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Literal, get_args

from llm2bids.exceptions import NetworkError

Level = Literal["participants", "runs", "prompts"]
LEVELS: tuple[Level, ...] = get_args(Level)

_NAMED = 5
_PROMPTS: tuple[Level, ...] = ("prompts",)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The data that an object was made from.

    Parameters
    ----------
    participants : frozenset of str
        Labels without ``sub-``.
    runs : frozenset of str
        Names that are unique in the dataset, e.g. ``"sub-01_task-pathology"``.
    prompts : frozenset of str
        Identifiers of the prompts, on and off.

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
        """Make a provenance from any collections of names.

        Parameters
        ----------
        participants, runs, prompts : iterable of str
            As in the class.

        Returns
        -------
        Provenance
            The names, each once.
        """
        return cls(
            participants=frozenset(map(str, participants)),
            runs=frozenset(map(str, runs)),
            prompts=frozenset(map(str, prompts)),
        )

    @classmethod
    def union(cls, parts: Iterable["Provenance"]) -> "Provenance":
        """Unite the provenances of everything that went into an object.

        Parameters
        ----------
        parts : iterable of Provenance
            Any number, none included.

        Returns
        -------
        Provenance
            All names of all parts.
        """
        kept = tuple(parts)
        return cls(
            **{level: frozenset().union(*(p.names(level) for p in kept)) for level in LEVELS}
        )

    @classmethod
    def from_dict(cls, content: Mapping[str, Sequence[str]]) -> "Provenance":
        """Read a provenance back from the form that sidecars hold.

        Parameters
        ----------
        content : mapping of str to sequence of str
            What `to_dict` gave.

        Returns
        -------
        Provenance
            The same as before.

        Raises
        ------
        NetworkError
            If a key is missing or unknown.
        """
        known = [field.name for field in fields(cls)]
        if sorted(content) != sorted(known):
            raise NetworkError(
                f"provenance: found the keys {', '.join(sorted(content)) or '(none)'}; expected "
                f"{', '.join(known)}; make the file again with this version"
            )
        return cls.of(**{name: content[name] for name in known})

    def to_dict(self) -> dict[str, list[str]]:
        """Give the names in sorted lists, for a JSON sidecar.

        Returns
        -------
        dict of str to list of str
            Keys ``participants``, ``runs`` and ``prompts``.
        """
        return {level: sorted(self.names(level)) for level in LEVELS}

    def names(self, level: Level) -> frozenset[str]:
        """Give the names of one level.

        Parameters
        ----------
        level : {"participants", "runs", "prompts"}
            The level.

        Returns
        -------
        frozenset of str
            The names.
        """
        named: frozenset[str] = getattr(self, level)
        return named

    def overlap(self, other: "Provenance") -> "Provenance":
        """Find the data that two objects have in common.

        Parameters
        ----------
        other : Provenance
            The other object's provenance.

        Returns
        -------
        Provenance
            The names that both hold, empty at each level where there are none.
        """
        return Provenance(
            **{level: self.names(level) & other.names(level) for level in LEVELS},
        )

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
    """Refuse to test something on the data that defined it.

    Parameters
    ----------
    defining : Provenance
        Of the maps, units or labels that were chosen or estimated.
    testing : Provenance
        Of the data that the test takes.
    what : str
        Name of the evaluation, for the message.
    allow_circular : bool, default=False
        Go on all the same; put what is returned on the result.
    levels : collection of {"participants", "runs", "prompts"}
        What must not be shared; a split of the prompts within participants asks for
        ``("prompts",)`` only.

    Returns
    -------
    Provenance
        What is shared at the levels asked for; empty (false) where all is well.

    Raises
    ------
    NetworkError
        If something is shared, with its names.

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
    """Refuse to measure agreement between participants who share prompts, or are alone.

    Parameters
    ----------
    parts : sequence of Provenance
        One for each participant.
    what : str
        Name of the measure, for the message.
    allow_circular : bool, default=False
        Go on with shared prompts all the same; put what is returned on the result.

    Returns
    -------
    Provenance
        The prompts that two or more share; empty (false) where all is well.

    Raises
    ------
    NetworkError
        If there are fewer than two, or two of them share prompts.
    """
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
    """Say on a result that it was tested on data that defined it.

    Parameters
    ----------
    shared : Provenance
        What `require_disjoint` returned.

    Returns
    -------
    str
        A sentence, empty where nothing is shared.

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
