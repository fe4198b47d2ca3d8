import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import InferenceError, NetworkError
from llm2bids.inference.provenance import (
    Provenance,
    circularity_note,
    require_apart,
    require_disjoint,
)

NAMES = st.frozensets(st.text(max_size=4), max_size=5)
PROVENANCES = st.builds(Provenance, participants=NAMES, runs=NAMES, prompts=NAMES)


def _of(who, *prompts):
    return Provenance.of(participants=[who], runs=[f"sub-{who}_task-tea"], prompts=prompts)


@given(PROVENANCES)
def test_round_trip_through_json(provenance):
    sidecar = json.loads(json.dumps(provenance.sidecar()))
    assert Provenance.read(sidecar, "map.json") == provenance


@given(PROVENANCES, PROVENANCES)
def test_overlap_is_symmetric_and_in_both(one, two):
    shared = one.overlap(two)
    assert shared == two.overlap(one)
    assert shared.overlap(one) == shared
    assert (one | shared) == one
    assert one.overlap(one | two) == one


def test_disjoint_gives_nothing():
    shared = require_disjoint(_of("01", "p1"), _of("02", "p2"), what="identification")
    assert not shared
    assert circularity_note(shared) == ""


def test_shared_participants_and_prompts_are_named():
    with pytest.raises(NetworkError) as caught:
        require_disjoint(_of("01", "p1", "p2"), _of("01", "p2"), what="identification")
    message = str(caught.value)
    for part in (
        "identification",
        "1 participant (01)",
        "1 run (sub-01_task-tea)",
        "1 prompt (p2)",
    ):
        assert part in message
    assert "allow_circular" in message


def test_many_names_are_cut():
    prompts = [f"p{i}" for i in range(7)]
    with pytest.raises(NetworkError, match=re.escape("7 prompts (p0, p1, p2, p3, p4, ...)")):
        require_disjoint(_of("01", *prompts), _of("02", *prompts), what="x")


def test_allowed_circularity_is_returned_and_said():
    shared = require_disjoint(_of("01", "p1"), _of("02", "p1"), what="x", allow_circular=True)
    assert shared == Provenance.of(prompts=["p1"])
    assert "CIRCULAR" in circularity_note(shared)


def test_levels_choose_what_counts():
    one, two = _of("01", "p1"), _of("01", "p2")
    assert not require_disjoint(one, two, what="x", levels=("prompts",))
    with pytest.raises(NetworkError, match="1 participant"):
        require_disjoint(one, two, what="x", levels=("participants",))


def test_participants_who_share_prompts_are_refused():
    with pytest.raises(NetworkError, match=r"agreement \(01 and 03\).*1 prompt \(p1\)"):
        require_apart([_of("01", "p1"), _of("02", "p2"), _of("03", "p1")], what="agreement")
    shared = require_apart([_of("01", "p1"), _of("03", "p1")], what="a", allow_circular=True)
    assert shared.prompts == {"p1"}


def test_one_participant_is_refused():
    with pytest.raises(NetworkError, match="found 1 participant; expected two"):
        require_apart([_of("01", "p1")], what="agreement")


def test_a_sidecar_without_provenance_is_refused():
    for sidecar in ({"Prompts": ["p1"]}, {"Participants": 1, "Runs": [], "Prompts": []}):
        with pytest.raises(InferenceError, match="the provenance that llm2bids writes"):
            Provenance.read(sidecar, "map.json")
