"""Options refuse what is no value of theirs, whoever gives it, and say what they take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch

import llm2bids
from llm2bids import read, record, replay
from llm2bids.exceptions import DatasetError, UsageError
from llm2bids.inference.options import GroupOptions
from llm2bids.inference.provenance import Provenance
from llm2bids.intervention.monitor import MonitorOptions
from llm2bids.intervention.steer import SteerOptions
from llm2bids.intervention.subject import SubjectOptions
from llm2bids.intervention.targets import TargetsOptions
from llm2bids.network.network import make_network
from llm2bids.options import Options, none_or_name, option
from llm2bids.scan.plan import plan

_tea = partial(option, text="of the tea", group="tea")


@dataclass(frozen=True, kw_only=True)
class Tea(Options):
    """Options of every kind."""

    name: str = _tea("green", "--name")
    kind: Literal["leaf", "bag"] = _tea("leaf", "--kind")
    sugar: str | None = _tea(None, "--sugar", parse=none_or_name, choices=("none", "brown"))
    cups: int = _tea(2, "--cups", least=1)
    grams: float | None = _tea(None, "--grams", above=0, most=9)
    times: tuple[float, ...] = _tea((), "--times", below=10)
    between: tuple[int, int] | None = _tea(None, "--between")
    pots: Sequence[str] = _tea(("blue",), "--pots")
    hot: bool = _tea(True, "--cold")
    recipe: Path | None = _tea(None, "--recipe")  # noqa: RUF009
    picture: Any = _tea(None, "--picture")  # noqa: RUF009
    notes: Mapping[str, str] | Sequence[str] | None = _tea(None, "--notes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 3}, r"name \(--name\) is 3; expected text$"),
        ({"name": ""}, "expected text that is not empty"),
        ({"kind": "powder"}, r"is 'powder'; expected 'leaf', 'bag'"),
        ({"sugar": "none"}, r"expected None, 'brown'"),
        ({"cups": 0}, "is 0; expected 1 or more"),
        ({"cups": 1.5}, "expected a whole number"),
        ({"cups": "2"}, "expected a whole number"),
        ({"cups": True}, "expected a whole number"),
        ({"cups": -(10**400)}, "expected 1 or more"),
        ({"grams": 10**400}, "expected a finite number or None"),
        ({"grams": 0}, "expected above 0 and at most 9"),
        ({"grams": float("nan")}, "expected a finite number or None"),
        ({"grams": np.array([1.0, 2.0])}, "expected a finite number"),
        ({"times": [3, 10]}, "expected below 10"),
        ({"times": "3"}, "expected a list in which each is a finite number"),
        ({"between": (1, 2, 3)}, "expected a list"),
        ({"pots": "blue"}, "expected a list in which each is text"),
        ({"pots": []}, "expected one or more"),
        ({"pots": ["blue", ""]}, "expected text that is not empty"),
        ({"hot": "yes"}, "expected True or False"),
        ({"recipe": 3}, "expected a path or None"),
        ({"notes": "strong"}, "expected a mapping or a list"),
    ],
)
def test_what_is_no_value_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Tea(**options)


def test_numbers_of_numpy_lists_and_texts_that_are_paths_pass():
    tea = Tea(cups=np.int64(3), grams=np.float32(2.5), times=np.array([1, 2]), between=[1, 2])
    assert (tea.cups, tea.grams, tea.times, tea.between) == (3, 2.5, (1, 2), (1, 2))
    assert {type(value) for value in (tea.cups, *tea.times)} == {int}  # JSON holds these
    picture = np.zeros(3)
    assert Tea(picture=picture).picture is picture
    assert Tea(recipe="tea.txt").recipe == Path("tea.txt")
    assert Tea(sugar="brown", pots={"red"}, notes={"a": "b"}).notes == {"a": "b"}


class _Folder:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_what_stands_for_a_value_is_taken_as_it():
    """Lists of any kind, numbers and flags of numpy and torch, any path, a device of torch."""
    tea = Tea(name=torch.device("cpu"), cups=torch.tensor(3), grams=np.array(2.0), hot=np.False_)
    assert (tea.name, tea.cups, tea.grams, tea.hot) == ("cpu", 3, 2.0, False)
    assert Tea(name=torch.float32).name == "float32"
    whole = Tea(cups=np.float64(3.0)).cups  # from a column with gaps
    assert (whole, type(whole)) == (3, int)
    assert Tea(times=None).times == ()
    assert Tea(recipe=_Folder(Path("tea.txt"))).recipe == Path("tea.txt")
    for pots in (iter(["red"]), {"red": 1}.keys(), pd.Series(["red"], index=[4])):
        assert Tea(pots=pots).pots == ("red",)
    with pytest.raises(UsageError, match="is 'red'; expected a list"):
        Tea(pots="red")


def test_interventions_take_folders_of_models_and_maps_in_memory(tmp_path):
    assert SubjectOptions(model=tmp_path).model == tmp_path
    picture = np.zeros(3)
    for kind in (MonitorOptions, SteerOptions, TargetsOptions):
        names = {"task": "tea"} if kind is TargetsOptions else {"task_labels": ["tea"]}
        assert kind(stat_img=picture, **names).stat_img is picture


def test_a_seed_that_permutations_do_not_take_is_refused_by_name():
    with pytest.raises(UsageError, match=r"random_state .* expected 0 or more and at most"):
        GroupOptions(random_state=2**40)


def test_arguments_of_verbs_are_taken_so_too(written):
    dataset = llm2bids.open_dataset(_Folder(written))
    labels = dataset.participants["participant_id"]
    assert dataset.select(participant_label=labels) == dataset.runs
    assert dataset.select(participant_label=iter(labels)) == dataset.runs


@pytest.mark.parametrize(
    "options",
    [
        *({"t_r": t_r} for t_r in ("x", -1, 0, 1e9, float("nan"), True)),
        *({"sites": sites} for sites in ([], [""], "mlp", [3], None)),
        *({name: n} for name in ("n_workers", "n_threads", "batch_size") for n in (-1, 0)),
        {"compress": "x"}, {"authors": "Ada"}, {"seed": 1.5}, {"task_labels": []},
    ],
)  # fmt: skip
def test_a_scan_refuses_them_before_it_writes(options, tmp_path):
    with pytest.raises(UsageError, match=next(iter(options))):
        record(tmp_path / "bids", progress=False, **options)
    assert not any(tmp_path.iterdir())


def test_a_reading_refuses_them_too(tmp_path):
    for options in ({"pool": "x"}, {"context": 1.5}, {"stride": 0}, {"t_r": float("nan")}):
        with pytest.raises(UsageError, match=next(iter(options))):
            read(tmp_path / "bids", stimuli="langloc", **options)


def test_answers_and_volumes_are_refused_before_anything_is_written(tiny_model_dir, tmp_path):
    asked = {"task_labels": ["pathology"], "prompts_per_block": 1, "n_participants": 1}
    asked |= {"model": tiny_model_dir("llama"), "device": "cpu"}
    answers = tmp_path / "answers.tsv"
    answers.write_text("prompt_id\tanswer\nnobody\thello\n")
    with pytest.raises(DatasetError, match="no answer to 3 of the 3 prompts"):
        replay(tmp_path / "bids", transcripts=answers, **asked)
    for verb in (partial(record, tmp_path / "bids"), partial(plan, time=False)):
        with pytest.raises(UsageError, match="a run of 36,000 volumes: an image holds 32,767"):
            verb(tokens_per_prompt=12_000, **asked)
    assert list(tmp_path.iterdir()) == [answers]


def test_what_words_do_not_have_is_no_option_of_theirs(tmp_path):
    (tmp_path / "a.tsv").write_text("onset\tduration\tword\n0\t1\ttea\n")
    for options, message in (
        ({"t_r": 1.0, "tier": "words"}, r"a\.tsv: --tier has no effect on these words"),
        ({"t_r": 1.0, "participant_labels": ["01"]}, "--participant-label has no effect"),
        ({"per_word": True, "resampling": "average"}, "--resample average --per-word: each word"),
    ):
        with pytest.raises(UsageError, match=message):
            read(tmp_path / "bids", stimuli=tmp_path / "a.tsv", **options)


def test_members_of_a_dataset_and_a_network_say_what_they_take(written):
    dataset = llm2bids.open_dataset(written)
    for member in (dataset.transcript, dataset.events, dataset.values, dataset.sidecar):
        with pytest.raises(UsageError, match="run is 'sub-01_task-pets'; expected Run"):
            member("sub-01_task-pets")
    with pytest.raises(UsageError, match="sites is 3; expected text or a list"):
        dataset.space.crop(3)
    units = np.array([1, 2])
    network = make_network(
        dataset.space, units, {}, label="x", provenance=Provenance(), criterion=""
    )
    with pytest.raises(UsageError, match=r"space is Dataset\(.{,30}; expected Space"):
        network.to_img(dataset)


@pytest.mark.parametrize(
    ("verb", "given", "message"),
    [
        (llm2bids.open_dataset, [None], "path is None; expected text or a path"),
        (llm2bids.load_network, [3], "path is 3; expected text or a path"),
        (llm2bids.Findings.load, [None], "out_dir is None; expected text or a path"),
        (llm2bids.write_report, ["x", "y"], None),
        (llm2bids.compare, ["x", None], "b is None; expected text or a path"),
        (partial(llm2bids.write_report, niivue="x"), ["x"], "niivue is 'x'; expected True or"),
        (
            partial(llm2bids.view, output_file=3),
            [0, 0],
            "output_file is 3; expected text or a path",
        ),
        (partial(llm2bids.record, progress=1), ["x"], "progress is 1; expected True or False"),
    ],
)
def test_an_argument_that_is_no_option_is_held_to_its_type_too(verb, given, message):
    """From Python a verb says which argument is wrong, as the command line does."""
    with pytest.raises(TypeError if message is None else UsageError, match=message):
        verb(*given)
