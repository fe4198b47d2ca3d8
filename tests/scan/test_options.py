"""The options of a scan: verbs, command line, settings and reference page have the same."""

import argparse
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import llm2bids
from llm2bids.cli import options
from llm2bids.exceptions import UsageError
from llm2bids.options import arguments
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.plan import plan

NAMES = [field.name for field in fields(ScanOptions)]


def parsed(*words):
    parser = argparse.ArgumentParser()
    options.of(parser, ScanOptions)
    return ScanOptions(**options.read(parser.parse_args(list(words)), ScanOptions))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"volume_dtype": "int8"}, r"volume_dtype \(--volume-dtype\) is 'int8'; expected 'int16'"),
        ({"hrf_model": "fir"}, r"hrf_model \(--hrf\) is 'fir'; expected None, 'spm', 'glover'"),
        ({"hrf_model": "none"}, r"hrf_model \(--hrf\) is 'none'; expected None"),
    ],
)
def test_what_is_no_choice_is_refused_from_python_too(given, said):
    with pytest.raises(UsageError, match=said):
        ScanOptions(**given)


def test_without_a_word_the_command_line_has_the_defaults_of_the_verbs():
    assert parsed() == ScanOptions()


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--participants", "3"], "n_participants", 3),
        (["--task", "a", "--task", "b"], "task_labels", ("a", "b")),
        (["--sites", "mlp"], "sites", ("mlp",)),
        (["--author", "Ada Lovelace"], "authors", ("Ada Lovelace",)),
        (["--tr", "0.25"], "t_r", 0.25),
        (["--tr", "auto"], "t_r", None),
        (["--no-compress"], "compress", False),
        (["--keep-first"], "keep_first", True),
        (["--hrf", "spm"], "hrf_model", "spm"),
        (["--hrf", "none"], "hrf_model", None),
        (["--random-weights"], "random_weights", 0),
        (["--random-weights", "7"], "random_weights", 7),
        (["--localizer-prompts", "0"], "localizer_prompts", 0),
    ],
)
def test_flags_set_their_options(words, name, value):
    assert parsed(*words) == ScanOptions(**{name: value})


def test_every_option_has_a_flag_of_its_own():
    flags = [argument.flag for argument in arguments(ScanOptions).values()]
    assert len(set(flags)) == len(NAMES)


@pytest.mark.parametrize("verb", [llm2bids.record, llm2bids.replay, plan])
def test_verbs_take_the_options_as_flat_keywords(verb):
    parameters = inspect.signature(verb).parameters
    assert set(NAMES) < set(parameters)
    assert all(parameters[name].default == getattr(ScanOptions(), name) for name in NAMES)
    if verb is not plan:
        assert all(f"\n{name}\n" in inspect.getdoc(verb) for name in NAMES)
        assert "**options" not in verb.__doc__


def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(TypeError, match="tokens"):
        llm2bids.record(tmp_path / "d", tokens=3)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_repetition_times_that_are_none(text):
    with pytest.raises(UsageError, match="--tr"):
        parsed("--tr", text)


def test_the_reference_page_has_the_table_of_options():
    script = Path(__file__).parents[2] / "scripts/options_table.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)


def test_datasets_of_earlier_versions_go_on():
    """The hash of what is shown is the one that a dataset of an earlier version has."""
    options = ScanOptions(n_participants=1, prompts_per_block=4, tokens_per_prompt=3)
    scan = options.draw(localizer_prompts=4)
    assert scan.paradigm_sha256 == (
        "a298adec089d92b54170cd9ff263f46e30efa5b745158be197a3656c468760a6"
    )
