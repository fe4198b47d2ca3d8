"""The options of an analysis: verbs and command line have the same."""

import argparse
import inspect
from pathlib import Path

import pytest

import llm2bids
from llm2bids.cli import options
from llm2bids.inference.options import (
    AnalysisOptions,
    GroupOptions,
    Memory,
    ParticipantSelection,
    Processors,
    Selection,
)
from llm2bids.network.options import FindingsOptions
from llm2bids.options import arguments

VERBS = {
    llm2bids.analyze_participants: (ParticipantSelection, AnalysisOptions, Processors, Memory),
    llm2bids.analyze_group: (Selection, GroupOptions, Processors),
    llm2bids.dataset_findings: (Selection, FindingsOptions, Memory),
}
KINDS = tuple(dict.fromkeys(kind for kinds in VERBS.values() for kind in kinds))


def parsed(kind, *words):
    parser = argparse.ArgumentParser()
    options.of(parser, *KINDS)
    return kind(**options.read(parser.parse_args(list(words)), kind))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_word_the_command_line_has_the_defaults_of_the_verbs(kind):
    assert parsed(kind) == kind()


@pytest.mark.parametrize(
    ("kind", "words", "values"),
    [
        (AnalysisOptions, ["--unit-of-analysis", "token", "--hrf-model", "spm"],
         {"unit_of_analysis": "token", "hrf_model": "spm"}),
        (AnalysisOptions, ["--hrf-model", "none", "--smoothing", "4"], {"smoothing_fwhm": 4.0}),
        (AnalysisOptions, ["--confounds", "a", "b"], {"confounds": ("a", "b")}),
        (AnalysisOptions, ["--contrast", "a - b"], {"contrasts": ("a - b",)}),
        (GroupOptions, ["--contrast", "a - b", "--contrast", "b"], {"contrasts": ("a - b", "b")}),
        (GroupOptions, ["--one-sided", "--n-perm", "9", "--random-state", "7"],
         {"two_sided_test": False, "n_perm": 9, "random_state": 7}),
        (FindingsOptions, ["--random-state", "7", "--alpha", "0.01"], {"seed": 7, "alpha": 0.01}),
        (FindingsOptions, ["--control", "shuffled-labels", "--control-dataset", "a"],
         {"controls": ("shuffled-labels",), "control_datasets": (Path("a"),)}),
        (ParticipantSelection, ["--participant_label", "01", "02", "--mask", "m.nii"],
         {"participant_label": ("01", "02"), "mask_img": Path("m.nii")}),
        (FindingsOptions, ["--allow-circular"], {"allow_circular": True}),
        (Memory, ["-w", "scratch", "--mem-gb", "2"], {"work_dir": Path("scratch"), "mem_gb": 2.0}),
    ],
)  # fmt: skip
def test_flags_set_their_options(kind, words, values):
    assert parsed(kind, *words) == kind(**values)


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_take_the_options_as_flat_keywords(verb, tmp_path):
    names = arguments(*VERBS[verb])
    parameters = inspect.signature(verb).parameters
    assert {name: parameters[name].default for name in names} == {
        name: argument.default for name, argument in names.items()
    }
    assert all(f"\n{name}\n" in inspect.getdoc(verb) for name in names)
    with pytest.raises(TypeError, match="'smoothing'"):
        verb(tmp_path, tmp_path, smoothing=4)
