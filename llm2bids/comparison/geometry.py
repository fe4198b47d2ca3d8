"""The geometry of items on two sides: pairs of participants, ranks, permutations, ceilings."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from llm2bids.comparison.items import Side, items_of
from llm2bids.exceptions import UsageError

if TYPE_CHECKING:
    from rsatoolbox.rdm import RDMs

_LOG = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Items that a comparison needs: six tasks give 15 pairs, two of which decide what comes out
MIN_ITEMS = 12


@dataclass(frozen=True, eq=False)
class Pair:
    """Ranks of the same items' dissimilarities on both sides, standardised: rows are layers."""

    participant: str  # of B
    items: tuple[str, ...]
    conditions: tuple[str, ...]
    a: Float32  # (n_layers_a, n_pairs)
    b: Float32  # (n_layers_b, n_pairs)
    dissimilarities: Float64  # of B's participant, (n_layers_b, n_pairs)


def find_pairs(a: Side, b: Side, kind: str) -> list[Pair]:
    """Find for each participant of B those of A with most of the same items."""
    pairs, few = [], {}
    for who, rdms in b.participants.items():
        mine = set(items_of(rdms))
        shared = {label: mine & set(items_of(other)) for label, other in a.participants.items()}
        most = max(shared.values(), key=len)
        if len(most) < MIN_ITEMS:
            few[who] = len(most)
            continue
        alike = [a.participants[label] for label, items in shared.items() if items == most]
        pairs.append(_pair(who, alike, rdms, tuple(sorted(most))))
    if not pairs:
        n = max(few.values(), default=0)
        raise UsageError(
            f"{a.name} and {b.name}: {n} {kind} that a participant of each has, {n * (n - 1) // 2} "
            f"pairs; expected {MIN_ITEMS} or more, or a few pairs decide what comes out: record "
            "both with the same prompts (paradigm and seed)"
            + (", and compare them by prompts (--items prompts)" if kind == "conditions" else "")
        )
    if few:
        _LOG.warning(
            "%s: participants %s share fewer than %d %s with %s, and are left out",
            *(b.name, ", ".join(few), MIN_ITEMS, kind, a.name),
        )
    sets = {pair.items for pair in pairs}
    if len(sets) > 1 and len(set().union(*sets)) < sum(map(len, sets)):
        _LOG.warning(
            "%s: participants have some of their items in common; expected all or none: p is too "
            "small, as what they share is permuted apart",
            b.name,
        )
    return pairs


def _pair(who: str, alike: Sequence["RDMs"], rdms: "RDMs", items: tuple[str, ...]) -> Pair:
    chosen, conditions = zip(*(_restricted(other, items) for other in (*alike, rdms)), strict=True)
    ranks = [rankdata(dissimilarities, axis=1) for dissimilarities in chosen]
    return Pair(
        participant=who,
        items=items,
        conditions=next((named for named in conditions if any(named)), conditions[0]),
        a=_standardised(np.mean(ranks[:-1], axis=0)),
        b=_standardised(ranks[-1]),
        dissimilarities=chosen[-1],
    )


def _restricted(rdms: "RDMs", items: Sequence[str]) -> tuple[Float64, tuple[str, ...]]:
    """Take the dissimilarities, (n_layers, n_pairs), and conditions of some items, as ordered."""
    row_of = {item: index for index, item in enumerate(items_of(rdms))}
    order = np.array([row_of[item] for item in items])
    first, second = order[np.array(np.triu_indices(order.size, 1))]
    named = rdms.pattern_descriptors["condition"]
    return rdms.get_matrices()[:, first, second], tuple(str(named[index]) for index in order)


def _standardised(values: Float64) -> Float32:
    """Rank rows (n_layers, n_pairs) and bring them to mean 0 and length 1: products are r."""
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    # where all items are equally unlike there is nothing to rank: r is 0
    unit = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    return np.asarray(unit, dtype=np.float32)


def null_r(
    pairs: Sequence[Pair],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    n_permutations: int,
    seed: int,
    *,
    inside: bool,
) -> Float64 | None:
    """Give r with B's items permuted, (n_permutations, n_tested); `inside` their conditions."""
    if inside and not any(1 < len(set(pair.conditions)) < len(pair.items) for pair in pairs):
        return None
    rng = np.random.default_rng(seed)
    null = np.zeros((n_permutations, len(rows)))
    for draw in null:
        # participants with the same items see the same permutation: they are not independent
        drawn: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}
        for pair in pairs:
            if pair.items not in drawn:
                groups = pair.conditions if inside else ("",) * len(pair.items)
                drawn[pair.items] = _permuted_pairs(groups, rng)
            draw += (pair.a @ pair.b[:, drawn[pair.items]].T)[rows, columns]
    return null / len(pairs)


def _permuted_pairs(groups: Sequence[str], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Permute items within groups; give the pairs that take the places of the pairs, (n_pairs,)."""
    order = np.arange(len(groups))
    for group in sorted(set(groups)):
        members = np.flatnonzero(np.array(groups, dtype=object) == group)
        order[members] = rng.permutation(members)
    number = squareform(np.arange(order.size * (order.size - 1) // 2))
    return np.asarray(squareform(number[np.ix_(order, order)]), dtype=np.int64)


def p_value(extreme: npt.NDArray[np.bool_]) -> Float64:
    """Count the data among the permutations (Phipson and Smyth 2010)."""
    return np.asarray((1 + extreme.sum(axis=0)) / (1 + len(extreme)), dtype=np.float64)


def ceilings(pairs: Sequence[Pair], n_layers: int) -> Float64:
    """Noise ceilings of B (n_layers, 2), where its participants have the same items."""
    from rsatoolbox.inference import boot_noise_ceiling
    from rsatoolbox.rdm import RDMs

    if len(pairs) < 2 or len({pair.items for pair in pairs}) > 1:
        return np.full((n_layers, 2), np.nan)
    layers = np.stack([pair.dissimilarities for pair in pairs], axis=1)
    return np.array([boot_noise_ceiling(RDMs(layer), "spearman") for layer in layers])
