import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import ParadigmError, UsageError
from llm2bids.paradigm.partition import (
    check_participants,
    count_participants,
    permute_bank,
    prompts_per_participant,
    slice_banks,
)
from llm2bids.paradigm.task import Paradigm, Task


@given(
    order=st.sampled_from(["multi_task", "interleaved"]),
    n_tasks=st.integers(1, 4),
    n_runs=st.integers(1, 3),
    prompts_per_block=st.integers(1, 5),
)
def test_slices_of_a_bank_follow_one_another(order, n_tasks, n_runs, prompts_per_block):
    paradigm = Paradigm(
        name="any",
        description="",
        order=order,
        tasks=tuple(
            Task(
                label=f"t{n}",
                conditions=((f"a{n}", "shared"), (f"b{n}", f"bank{n}"), (f"c{n}", "off")),
            )
            for n in range(n_tasks)
        ),
        baseline="off",
        prompts_per_block=prompts_per_block,
        tokens_per_prompt=2,
        n_runs=n_runs,
    )
    ends: dict[str, int] = {}
    for part in slice_banks(paradigm):
        assert part.start == ends.get(part.condition, 0)
        ends[part.condition] = part.start + part.n_prompts
    assert ends == prompts_per_participant(paradigm)
    assert ends["shared"] == n_tasks * n_runs * prompts_per_block


def test_the_parts_of_a_bank_are_the_bank(make_paradigm, make_bank):
    banks = {"off": make_bank("off", 23)}
    shown, calibration = permute_bank(make_paradigm(), banks, "off", seed=0)
    assert (len(shown), len(calibration)) == (16, 7)
    assert set(shown + calibration) == set(banks["off"])
    assert shown + calibration != banks["off"]


def test_a_missing_bank_serves_nobody(make_paradigm, make_bank):
    banks = {"cats": make_bank("cats", 8), "off": make_bank("off", 3)}
    assert count_participants(make_paradigm(), banks) == {"off": 0, "cats": 2, "dogs": 0}


def test_participants_are_checked_for_the_whole_dataset(make_paradigm, make_bank):
    sizes = {"cats": 8, "dogs": 9, "off": 43}
    banks = {condition: make_bank(condition, n) for condition, n in sizes.items()}
    check_participants(make_paradigm(), banks, 2)
    with pytest.raises(ParadigmError, match=r"bank 'cats': serves 2 participants .* found 3"):
        check_participants(make_paradigm(), banks, 3)
    with pytest.raises(UsageError, match=r"participants: found 0, expected 1 or more"):
        check_participants(make_paradigm(), banks, 0)
