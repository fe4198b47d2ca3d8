import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import ParadigmError, UsageError
from llm2bids.paradigm.design import (
    check_participants,
    count_participants,
    draw_calibration,
    draw_runs,
    latin_square,
    order_blocks,
    paradigm_hash,
    participant_label,
    permute_bank,
    prompts_per_participant,
    shared_prompts,
    slice_banks,
)
from llm2bids.paradigm.load import load_paradigm, shipped_paradigms
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.task import Paradigm, Prompt, Task

TWO_CONDITIONS = (Task(label="pets", conditions=(("feline", "cats"), ("canine", "dogs"))),)


@pytest.fixture
def banks(make_bank):
    """Cats serve 6 participants, dogs 4, off 5: 12 for each and 7 for the calibration."""
    return {
        "cats": make_bank("cats", 20),
        "dogs": make_bank("dogs", 13),
        "off": make_bank("off", 69),
    }


def prompt_ids(designs):
    return [trial.prompt.prompt_id for design in designs for trial in design.trials]


def draw_all(paradigm, banks, n_participants, **options):
    return [
        design
        for participant in range(1, n_participants + 1)
        for design in draw_runs(paradigm, banks, participant=participant, **options)
    ]


def test_a_run_is_off_on_off(make_paradigm, banks):
    cats, dogs = draw_runs(make_paradigm(), banks, participant=2, seed=0)
    assert (cats.participant_label, cats.task, cats.run) == ("02", "cats", None)
    assert dogs.task == "dogs"
    assert [trial.block for trial in cats.trials] == [0] * 3 + [1] * 3 + [2] * 3
    assert [trial.trial_type for trial in cats.trials] == [None] * 3 + ["cats"] * 3 + [None] * 3
    conditions = [trial.prompt.condition for trial in cats.trials]
    assert conditions == ["off"] * 3 + ["cats"] * 3 + ["off"] * 3
    assert cats.n_volumes == 9 * 5
    assert cats.seed != dogs.seed


@pytest.mark.parametrize("name", shipped_paradigms())
def test_no_prompt_of_a_shipped_paradigm_is_shown_twice(name):
    paradigm = load_paradigm(name)
    banks = load_banks(paradigm)
    n_participants = min(count_participants(paradigm, banks).values())
    assert n_participants >= (11 if name == "null" else 16)
    designs = draw_all(paradigm, banks, n_participants, seed=3)
    shown = prompt_ids(designs) + [x.prompt_id for x in draw_calibration(paradigm, banks, seed=3)]
    assert len(shown) == len(set(shown))
    assert shared_prompts(designs) == ([], [])
    with pytest.raises(ParadigmError, match=rf"serves {n_participants} participants"):
        check_participants(paradigm, banks, n_participants + 1)


def test_null_runs_show_off_prompts_as_on_prompts():
    paradigm = load_paradigm("null")
    designs = draw_runs(paradigm, load_banks(paradigm), participant=1, seed=0)
    assert [design.task for design in designs] == [f"null{number}" for number in range(1, 7)]
    for design in designs:
        assert {trial.prompt.condition for trial in design.trials} == {"offtopic"}
        assert [trial.trial_type for trial in design.trials[8:16]] == [design.task] * 8


@given(seed=st.integers(0, 2**40), participant=st.integers(1, 4))
def test_a_draw_is_the_same_again(seed, participant):
    paradigm = load_paradigm("off_on_off")
    banks = {
        condition: tuple(
            Prompt(prompt_id=f"{condition}{n}", condition=condition, topic="", text=f"{n}")
            for n in range(500)
        )
        for condition, _ in paradigm.banks
    }
    options = {"participant": participant, "seed": seed}
    runs = draw_runs(paradigm, banks, **options)
    assert runs == draw_runs(paradigm, banks, **options)
    one = draw_runs(paradigm, banks, task_labels=["pathology"], **options)
    assert one == tuple(run for run in runs if run.task == "pathology")


def test_seeds_give_other_draws(make_paradigm, banks):
    first, second = (draw_runs(make_paradigm(), banks, participant=1, seed=seed) for seed in (0, 1))
    assert prompt_ids(first) != prompt_ids(second)
    assert first[0].seed != second[0].seed


def test_runs_of_a_task_show_other_prompts(make_paradigm, banks):
    paradigm = make_paradigm(n_runs=2)
    assert min(count_participants(paradigm, banks).values()) == 2
    designs = draw_all(paradigm, banks, 2, seed=0)
    assert [(run.task, run.run) for run in designs[:4]] == [
        ("cats", 1),
        ("cats", 2),
        ("dogs", 1),
        ("dogs", 2),
    ]
    assert len({run.seed for run in designs}) == 8
    assert shared_prompts(designs) == ([], [])


def test_conditions_are_counterbalanced_over_participants(make_paradigm, banks):
    paradigm = make_paradigm(order="multi_task", tasks=TWO_CONDITIONS)
    designs = draw_all(paradigm, banks, 4, seed=0)
    orders = [
        [trial.trial_type for trial in run.trials if trial.trial_type][
            :: paradigm.prompts_per_block
        ]
        for run in designs
    ]
    assert orders[0] == orders[2]
    assert orders[1] == orders[3] == orders[0][::-1]
    for run in designs:
        assert [trial.block for trial in run.trials] == [n for n in range(5) for _ in range(3)]
        for trial in run.trials:
            expected = {None: "off", "feline": "cats", "canine": "dogs"}[trial.trial_type]
            assert trial.prompt.condition == expected


def test_six_participants_make_a_full_set_of_orders():
    paradigm = load_paradigm("multi_task")
    designs = draw_all(paradigm, load_banks(paradigm), 6, seed=0)
    orders = [tuple(dict.fromkeys(x.trial_type for x in run.trials)) for run in designs]
    assert len(set(orders)) == 6
    assert len({order[1] for order in orders}) == 6


def test_interleaved_prompts_alternate(make_paradigm, banks):
    paradigm = make_paradigm(order="interleaved")
    run = draw_runs(paradigm, banks, participant=1, seed=0, task_labels=["dogs"])[0]
    assert [trial.trial_type for trial in run.trials] == [None, "dogs"] * 3 + [None]
    assert [trial.block for trial in run.trials] == list(range(7))


def test_the_calibration_is_drawn_from_the_baseline(make_paradigm, banks):
    prompts = draw_calibration(make_paradigm(), banks, seed=0)
    assert len({prompt.prompt_id for prompt in prompts}) == 7
    assert {prompt.condition for prompt in prompts} == {"off"}
    assert prompts != draw_calibration(make_paradigm(), banks, seed=1)


def test_a_bank_too_small_for_the_participants_says_how_many_it_serves(make_paradigm, banks):
    assert min(count_participants(make_paradigm(), banks).values()) == 4
    with pytest.raises(ParadigmError) as error:
        check_participants(make_paradigm(), banks, 5)
    message = str(error.value)
    assert message.startswith("bank 'dogs': serves 4 participants of paradigm 'small', found 5: ")
    assert "3 prompts for each participant make 15, and 13 are there" in message
    assert "--allow-shared-prompts" in message


def test_shared_prompts_wrap_round_and_are_recorded(make_paradigm, banks):
    designs = draw_all(make_paradigm(), banks, 6, seed=0)
    between, within = shared_prompts(designs)
    assert within == []
    dogs = [name for name in between if name.startswith("dogs")]
    off = [name for name in between if name.startswith("off")]
    assert (len(dogs), len(off)) == (6 * 3 - 13, 6 * 12 - 62)
    assert len(between) == len(dogs) + len(off)
    assert len(set(prompt_ids(designs))) == 18 + 13 + 62
    calibration = {x.prompt_id for x in draw_calibration(make_paradigm(), banks, seed=0)}
    assert calibration.isdisjoint(prompt_ids(designs))


def test_with_a_very_small_bank_off_prompts_come_back_in_another_task_only(
    make_paradigm, make_bank, banks
):
    banks |= {"off": make_bank("off", 7 + 6)}
    assert min(count_participants(make_paradigm(), banks).values()) == 0
    with pytest.raises(ParadigmError, match=r"bank 'off': serves 0 participants"):
        check_participants(make_paradigm(), banks, 1)
    designs = draw_runs(make_paradigm(), banks, participant=1, seed=0)
    for design in designs:
        assert len(set(prompt_ids([design]))) == len(design.trials)
    assert len(shared_prompts(designs)[1]) == 6


def test_a_bank_too_small_for_a_single_run_is_refused_even_if_shared(
    make_paradigm, make_bank, banks
):
    banks |= {"off": make_bank("off", 12)}
    with pytest.raises(ParadigmError) as error:
        draw_runs(make_paradigm(), banks, participant=1, seed=0)
    message = str(error.value)
    assert message.startswith("bank 'off': found 12 prompts, expected 13 or more: ")
    assert "needs 6 for a single run and 7 for the calibration" in message
    with pytest.raises(ParadigmError, match=r"bank 'off': found 12 prompts"):
        draw_calibration(make_paradigm(), banks, seed=0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"participant": 1, "seed": -1}, "seed: found -1"),
        (
            {"participant": 1, "seed": 0, "task_labels": ["cat"]},
            "task 'cat' (--task): not in paradigm 'small'. Did you mean 'cats'?",
        ),
    ],
)
def test_wrong_arguments_are_refused(make_paradigm, banks, options, problem):
    with pytest.raises(UsageError) as error:
        draw_runs(make_paradigm(), banks, **options)
    assert problem in str(error.value)


def test_labels_sort_in_the_order_of_participants():
    assert [participant_label(number) for number in (1, 12, 99, 100)] == ["01", "12", "99", "100"]


def test_the_hash_follows_what_is_shown(make_paradigm, make_bank, banks):
    reference = paradigm_hash(make_paradigm(), banks)
    assert len(reference) == 64
    renamed = make_paradigm(name="other", description="", source="#", banks=(("off", "a.tsv"),))
    assert paradigm_hash(renamed, banks) == reference
    assert paradigm_hash(make_paradigm(), banks | {"cows": make_bank("cows", 2)}) == reference
    assert paradigm_hash(make_paradigm(tokens_per_prompt=6), banks) != reference
    sampling = dataclasses.replace(make_paradigm().sampling, temperature=0.5)
    assert paradigm_hash(make_paradigm(sampling=sampling), banks) != reference
    first, *rest = banks["cats"]
    edited = banks | {"cats": (dataclasses.replace(first, text="Anew."), *rest)}
    assert paradigm_hash(make_paradigm(), edited) != reference


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
    shown, calibration = permute_bank(make_paradigm(), banks["off"], "off", 0)
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


@pytest.mark.parametrize(("n_conditions", "n_rows"), [(1, 1), (2, 2), (3, 6), (6, 6), (7, 14)])
def test_a_square_balances_places_and_neighbours(n_conditions, n_rows):
    square = latin_square(n_conditions)
    assert square.shape == (n_rows, n_conditions)
    for place in square.T:
        assert set(Counter(place.tolist()).values()) == {n_rows // n_conditions}
    followers = Counter(pair for row in square.tolist() for pair in pairwise(row))
    assert len(followers) == n_conditions * (n_conditions - 1)
    assert len(set(followers.values())) <= 1


@given(
    order=st.sampled_from(["off_on_off", "multi_task", "interleaved"]),
    n_types=st.integers(1, 5),
    prompts_per_block=st.integers(1, 9),
)
def test_off_and_on_alternate_and_mirror(order, n_types, prompts_per_block):
    trial_types = [f"t{number}" for number in range(n_types)]
    blocks = order_blocks(order, trial_types, prompts_per_block)
    is_on = [trial_type is not None for trial_type, _ in blocks]
    assert is_on == [number % 2 == 1 for number in range(len(blocks))]
    shown = [name for name, n_prompts in blocks for _ in range(n_prompts)]
    assert {shown.count(name) for name in trial_types} == {prompts_per_block}
    series = np.repeat(is_on, [n_prompts for _, n_prompts in blocks])
    assert (series == series[::-1]).all()


def test_blocks_of_each_order():
    assert order_blocks("off_on_off", ["a"], 4) == ((None, 4), ("a", 4), (None, 4))
    assert order_blocks("multi_task", ["a", "b"], 4) == (
        (None, 4),
        ("a", 4),
        (None, 4),
        ("b", 4),
        (None, 4),
    )
    assert order_blocks("interleaved", ["a"], 2) == (
        (None, 1),
        ("a", 1),
        (None, 1),
        ("a", 1),
        (None, 1),
    )
