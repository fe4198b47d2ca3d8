import re
from pathlib import Path

import pytest

from llm2bids.exceptions import ParadigmError
from llm2bids.paradigm.design import count_participants
from llm2bids.paradigm.load import _KEYS, load_paradigm, shipped_paradigms
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.task import Sampling, Task

SIX = (
    "politicalscience",
    "medicalimaging",
    "paleontology",
    "archeology",
    "pathology",
    "randomstrings",
)
MINIMAL = {
    "order": "'off_on_off'",
    "baseline": "'offtopic'",
    "prompts_per_block": "3",
    "tokens_per_prompt": "5",
    "tasks": "{ pathology = 'pathology' }",
}


@pytest.fixture
def write(tmp_path):
    """Write a paradigm file; None takes a key out."""

    def write_file(**changes):
        values = {key: value for key, value in (MINIMAL | changes).items() if value is not None}
        file = tmp_path / "mine.toml"
        file.write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
        return file

    return write_file


def test_the_shipped_paradigms_are_those_of_the_design():
    assert shipped_paradigms() == ("interleaved", "multi_task", "null", "off_on_off")


@pytest.mark.parametrize("name", ["off_on_off", "interleaved"])
def test_six_tasks_with_one_condition_each(name):
    paradigm = load_paradigm(name)
    assert (paradigm.name, paradigm.order) == (name, name)
    assert paradigm.tasks == tuple(Task(label=task, conditions=((task, task),)) for task in SIX)
    assert (paradigm.prompts_per_block, paradigm.tokens_per_prompt) == (8, 12)
    assert paradigm.context == "fresh"
    assert paradigm.sampling == Sampling(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)


def test_one_task_with_six_conditions():
    paradigm = load_paradigm("multi_task")
    assert paradigm.order == "multi_task"
    conditions = tuple((name, name) for name in SIX)
    assert paradigm.tasks == (Task(label="multitask", conditions=conditions),)


def test_null_tasks_show_the_off_bank():
    paradigm = load_paradigm("null")
    labels = [f"null{number}" for number in range(1, 7)]
    assert [task.label for task in paradigm.tasks] == labels
    assert [task.conditions for task in paradigm.tasks] == [((x, "offtopic"),) for x in labels]
    assert paradigm.banks == (("offtopic", "offtopic.tsv"),)


@pytest.mark.parametrize("name", shipped_paradigms())
def test_a_shipped_file_has_comments_and_a_description_and_its_banks_load(name):
    paradigm = load_paradigm(name)
    assert paradigm.source.startswith("#")
    assert paradigm.description.endswith(".")
    assert set(load_banks(paradigm)) == {condition for condition, _ in paradigm.banks}


def test_a_file_of_the_user_with_banks_beside_it(tmp_path, monkeypatch):
    folder = tmp_path / "study"
    folder.mkdir()
    header = "prompt_id\tcondition\ttopic\ttext\n"
    (folder / "pets.tsv").write_text(f"{header}c1\tcats\t\tWhy?\nd1\tdogs\t\tHow?\n")
    text = """
        order = "multi_task"
        baseline = "offtopic"
        prompts_per_block = 1
        tokens_per_prompt = 5
        n_runs = 2
        context = "carry"
        calibration_prompts = 9
        [sampling]
        temperature = 2
        top_k = 40
        top_p = 0.9
        [tasks]
        pets = { feline = "cats", canine = "dogs" }
        [banks]
        cats = "pets.tsv"
        dogs = "pets.tsv"
        """
    (folder / "pets.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    paradigm = load_paradigm("study/pets.toml")
    conditions = (("feline", "cats"), ("canine", "dogs"))
    assert paradigm.tasks == (Task(label="pets", conditions=conditions),)
    assert (paradigm.name, paradigm.n_runs, paradigm.calibration_prompts) == ("pets", 2, 9)
    assert paradigm.sampling == Sampling(temperature=2.0, top_k=40, top_p=0.9)
    assert paradigm.context == "carry"
    assert paradigm.source == text
    assert paradigm.banks[0] == ("cats", str(folder / "pets.tsv"))
    assert paradigm.banks[2] == ("offtopic", "offtopic.tsv")
    monkeypatch.chdir(folder)
    assert [prompt.prompt_id for prompt in load_banks(paradigm)["dogs"]] == ["d1"]


def test_only_five_keys_are_required(write):
    paradigm = load_paradigm(write())
    assert (paradigm.n_runs, paradigm.calibration_prompts, paradigm.description) == (1, 32, "")
    assert paradigm.sampling == Sampling()


@pytest.mark.parametrize("key", MINIMAL)
def test_a_required_key_is_missed(write, key):
    with pytest.raises(ParadigmError, match=rf"mine\.toml: key '{key}': missing, expected"):
        load_paradigm(write(**{key: None}))


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        ({"odrer": "1"}, "odrer", "unknown. Did you mean 'order'? Expected one of: banks,"),
        ({"sampling": "{ temp = 1 }"}, "sampling.temp", "Did you mean 'temperature'?"),
        ({"order": "'on_off_on'"}, "order", "found 'on_off_on'. Did you mean 'off_on_off'?"),
        ({"order": "3"}, "order", "found 3. Expected one of: interleaved"),
        ({"order": "['off_on_off']"}, "order", "found ['off_on_off']"),
        ({"context": "'carried'"}, "context", "Did you mean 'carry'?"),
        ({"description": "3"}, "description", "found 3, expected a text"),
        ({"prompts_per_block": "0"}, "prompts_per_block", "found 0, expected an integer of 1"),
        ({"prompts_per_block": "2.5"}, "prompts_per_block", "found 2.5, expected an integer"),
        ({"tokens_per_prompt": "'12'"}, "tokens_per_prompt", "found '12', expected an integer"),
        ({"tokens_per_prompt": "true"}, "tokens_per_prompt", "found True, expected an integer"),
        ({"n_runs": "-1"}, "n_runs", "found -1, expected an integer of 1 or more"),
        ({"calibration_prompts": "0"}, "calibration_prompts", "expected an integer of 1"),
        ({"sampling": "{ temperature = 0 }"}, "sampling.temperature", "found 0, expected a number"),
        ({"sampling": "{ temperature = nan }"}, "sampling.temperature", "found nan"),
        ({"sampling": "{ temperature = inf }"}, "sampling.temperature", "found inf"),
        ({"sampling": "{ temperature = '1' }"}, "sampling.temperature", "found '1'"),
        ({"sampling": "{ top_p = 1.1 }"}, "sampling.top_p", "a number above 0 and up to 1"),
        ({"sampling": "{ top_k = -1 }"}, "sampling.top_k", "an integer of 0 or more"),
        ({"sampling": "{ do_sample = 1 }"}, "sampling.do_sample", "expected true or false"),
        ({"sampling": "1"}, "sampling", "found 1, expected a table [sampling]"),
        ({"baseline": "'off_topic'"}, "baseline", "expected a BIDS label"),
        ({"baseline": "'offtopics'"}, "banks.offtopics", "Did you mean 'offtopic'?"),
        ({"tasks": "'pathology'"}, "tasks", "expected a table [tasks]"),
        ({"tasks": "{}"}, "tasks", "found no task, expected one or more"),
        ({"tasks": "{ my_task = 'pathology' }"}, "tasks.my_task", "expected a BIDS label"),
        ({"tasks": "{ 'é' = 'pathology' }"}, "tasks.é", "expected a BIDS label"),
        ({"tasks": "{ a = 'x y' }"}, "tasks.a", "found 'x y', expected a BIDS label"),
        ({"tasks": "{ a = { b_c = 'pathology' } }"}, "tasks.a", "found 'b_c', expected a BIDS"),
        ({"tasks": "{ a = [1] }"}, "tasks.a", "found 1, expected a BIDS label"),
        ({"tasks": "{ a = 1 }"}, "tasks.a", "found 1, expected a bank ('pathology'), a list"),
        ({"tasks": "{ a = [] }"}, "tasks.a", "found no condition"),
        ({"tasks": "{ a = ['pathology', 'pathology'] }"}, "tasks.a", "found a bank twice"),
        ({"tasks": "{ a = ['pathology', 'archeology'] }"}, "tasks.a", "found 2 conditions"),
        (
            {"tasks": "{ Pathology = 'pathology', pathology = 'archeology' }"},
            "tasks.pathology",
            "the same task label as 'Pathology' but for case",
        ),
        (
            {"tasks": "{ a = ['pathology'], b = ['pathology'] }"},
            "tasks.b",
            "trial type 'pathology' is also that of task 'a'",
        ),
        ({"tasks": "{ cats = 'cats' }"}, "banks.cats", "no shipped bank is called 'cats'"),
        ({"banks": "{ pathology = 'no.tsv' }"}, "banks.pathology", "no file"),
        ({"banks": "{ pathology = 1 }"}, "banks.pathology", "found 1, expected a text"),
        ({"banks": "{ patology = 'x.tsv' }"}, "banks.patology", "Did you mean 'pathology'?"),
    ],
)
def test_a_wrong_key_is_named_with_file_and_reason(write, changes, key, problem):
    file = write(**changes)
    with pytest.raises(ParadigmError) as error:
        load_paradigm(file)
    message = str(error.value)
    assert message.startswith(f"{file}: key '{key}': ")
    assert problem in message


def test_two_tasks_with_the_same_label_are_refused(write):
    file = write(tasks="{ a = 'pathology', a = 'archeology' }")
    with pytest.raises(ParadigmError, match=rf"{re.escape(str(file))}: is not TOML: .*line 5"):
        load_paradigm(file)


def test_what_is_not_toml_is_refused(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text("order: off_on_off\n")
    with pytest.raises(ParadigmError, match=r"bad\.toml: is not TOML: .*line 1"):
        load_paradigm(file)


def test_what_is_not_utf8_is_refused(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_bytes("description = 'Café'\n".encode("latin-1"))
    with pytest.raises(ParadigmError, match=r"bad\.toml, line 1: found byte 0x.*not UTF-8"):
        load_paradigm(file)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("off-on-off", "no such shipped paradigm or file. Did you mean 'off_on_off'?"),
        ("xyz", "Expected one of: interleaved, multi_task, null, off_on_off. Or name a TOML"),
        ("none.toml", "none.toml: no such file, expected a paradigm file (TOML) or one of"),
        ("no/where", "no/where: no such file"),
        (".", "found a folder, expected a paradigm file"),
    ],
)
def test_what_is_no_file_and_no_name_is_refused(name, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParadigmError) as error:
        load_paradigm(name)
    assert problem in str(error.value)


def test_the_reference_page_names_every_key_and_how_many_participants_are_served():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "paradigm.md").read_text()
    for key in _KEYS:
        assert f"`{key}`" in page or f"`[{key}]`" in page
    for name in shipped_paradigms():
        paradigm = load_paradigm(name)
        served = min(count_participants(paradigm, load_banks(paradigm)).values())
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert re.search(rf"\| {served}( participants)? \|$", row)


def test_the_example_of_the_reference_page_loads(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "paradigm.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    (tmp_path / "pets.tsv").touch()
    file = tmp_path / "example.toml"
    file.write_text(
        "order = 'multi_task'\nbaseline = 'offtopic'\nprompts_per_block = 2\n"
        f"tokens_per_prompt = 3\n{example}"
    )
    assert [len(task.conditions) for task in load_paradigm(file).tasks] == [1, 2, 2]
