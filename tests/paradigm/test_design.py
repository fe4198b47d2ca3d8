import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import ParadigmError, UsageError
from llm2bids.paradigm.design import draw_runs, paradigm_hash, shared_prompts
from llm2bids.paradigm.load import load_paradigm, shipped_paradigms
from llm2bids.paradigm.partition import count_participants, draw_calibration, participant_label
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.task import Prompt, Task

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
        draw_runs(paradigm, banks, participant=n_participants + 1, seed=3)


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
    assert runs == draw_runs(paradigm, banks, allow_shared_prompts=True, **options)
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
        draw_runs(make_paradigm(), banks, participant=5, seed=0)
    message = str(error.value)
    assert message.startswith("bank 'dogs': serves 4 participants of paradigm 'small', found 5: ")
    assert "3 prompts for each participant make 15, and 13 are there" in message
    assert "--allow-shared-prompts" in message


def test_only_the_banks_of_the_drawn_tasks_count(make_paradigm, banks):
    draw_runs(make_paradigm(), banks, participant=5, seed=0, task_labels=["cats"])
    with pytest.raises(
        ParadigmError,
        match=r"bank 'off': serves 5 participants.*12 prompts for "
        r"each participant and 7 for the calibration make 79, and 69 are there",
    ):
        draw_runs(make_paradigm(), banks, participant=6, seed=0, task_labels=["cats"])


def test_shared_prompts_wrap_round_and_are_recorded(make_paradigm, banks):
    designs = draw_all(make_paradigm(), banks, 6, seed=0, allow_shared_prompts=True)
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
        draw_runs(make_paradigm(), banks, participant=1, seed=0)
    designs = draw_runs(make_paradigm(), banks, participant=1, seed=0, allow_shared_prompts=True)
    for design in designs:
        assert len(set(prompt_ids([design]))) == len(design.trials)
    assert len(shared_prompts(designs)[1]) == 6


def test_a_bank_too_small_for_a_single_run_is_refused_even_if_shared(
    make_paradigm, make_bank, banks
):
    banks |= {"off": make_bank("off", 12)}
    with pytest.raises(ParadigmError) as error:
        draw_runs(make_paradigm(), banks, participant=1, seed=0, allow_shared_prompts=True)
    message = str(error.value)
    assert message.startswith("bank 'off': found 12 prompts, expected 13 or more: ")
    assert "needs 6 for a single run and 7 for the calibration" in message
    with pytest.raises(ParadigmError, match=r"bank 'off': found 12 prompts"):
        draw_calibration(make_paradigm(), banks, seed=0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"participant": 0, "seed": 0}, "participant: found 0, expected 1 or more"),
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


def test_a_bank_that_was_not_read_is_named(make_paradigm, banks):
    del banks["dogs"]
    with pytest.raises(ParadigmError, match=r"banks: found cats, off, expected 'dogs'"):
        draw_runs(make_paradigm(), banks, participant=1, seed=0, allow_shared_prompts=True)


def test_labels_sort_in_the_order_of_participants():
    assert [participant_label(number) for number in (1, 12, 99, 100)] == ["01", "12", "99", "100"]
    with pytest.raises(UsageError, match="participant: found 0"):
        participant_label(0)


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
