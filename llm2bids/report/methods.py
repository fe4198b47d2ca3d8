"""Section: a methods paragraph to paste, software, and how to cite."""

import importlib.metadata
from collections import Counter
from typing import Any

from llm2bids import __version__
from llm2bids.report.design import about_design
from llm2bids.report.group_map import GroupMap
from llm2bids.report.section import Section, counted, listed, percent, render
from llm2bids.report.sources import Sources, read_object, sidecar

BIBTEX = """@misc{nencka2023functional,
  title         = {On Functional Activations in Deep Neural Networks},
  author        = {Nencka, Andrew S. and Koch, Kevin M. and Muftuler, L. Tugan and
                   LaViolette, Peter S.},
  year          = {2023},
  eprint        = {2311.10898},
  archivePrefix = {arXiv}
}"""
"""The paper whose method this is."""


def methods_section(sources: Sources, maps: tuple[GroupMap, ...]) -> Section:
    """Write a paragraph that says what was done and with which versions, and references."""
    sentences = [*recording_sentences(sources), *analysis_sentences(sources, maps)]
    return Section(
        name="methods",
        title="Methods, ready to paste",
        body=render("methods.html", sentences=sentences, bibtex=BIBTEX, software=software(sources)),
    )


def recording_sentences(sources: Sources) -> list[str]:
    """Say how the dataset was recorded."""
    dataset = sources.dataset
    design = about_design(sources)
    run = sources.first_runs()[0]
    metadata = dataset.sidecar(run)
    n_participants = len({run.participant_label for run in dataset.runs})
    first = (
        "the first generated token of each prompt was recorded too"
        if metadata.get("FirstTokenKept")
        else "the first generated token of each prompt, which reads the prompt, was left out"
    )
    prompts = (
        "participants could share prompts"
        if design["shared"]
        else "no prompt was shown to two participants"
    )
    hrf = metadata.get("HaemodynamicResponse", "none")
    convolved = "" if hrf == "none" else f" The series were convolved with a {hrf} response."
    return [
        f"We recorded the outputs of {len(dataset.space.sites)} modules "
        f"({dataset.space.n_units:,} units) of {dataset.settings.get('model')}{_variant(sources)} "
        f"(weights {str(metadata.get('WeightsSHA256', ''))[:12]}, computed in "
        f"{metadata.get('ComputeDataType', 'unknown precision')}) with llm2bids "
        f"{metadata.get('Versions', {}).get('llm2bids', __version__)}, after Nencka et al. (2023).",
        f"{counted(n_participants, 'participant')}, each a draw of prompts and a sampling seed for "
        f"this one checkpoint, did {counted(len(sources.tasks), 'task')} "
        f"({listed(sources.tasks)}); {prompts}.",
        f"A run had {design['n_prompts']} prompts in {design['n_blocks']} blocks, the off prompts "
        f"({design['baseline']}) being the implicit baseline; each prompt gave "
        f"{design['volumes_per_prompt']} volumes, one for each generated token ({first}); tokens "
        f"were {_past(design['sampling'])}.",
        f"Values were scaled with the mean and standard deviation of each unit over a separate "
        f"resting scan ({metadata.get('CountsPerSD')} counts for one standard deviation around "
        f"{metadata.get('Baseline')}) and written as BIDS "
        f"{_bids_version(sources)} images with a nominal repetition time of {design['t_r']:g} s."
        f"{convolved}",
    ]


def analysis_sentences(sources: Sources, maps: tuple[GroupMap, ...]) -> list[str]:
    """Say how the dataset was analysed, or that it was not."""
    metadata = _first_level(sources)
    if not metadata:
        return ["No statistics were computed on these data yet."]
    unit = metadata.get("UnitOfAnalysis", "prompt")
    parameters = metadata.get("ModelParameters", {})
    observed = {
        "prompt": "one observation for each prompt, the mean of its volumes",
        "token": "one observation for each volume",
    }.get(str(unit), str(unit))
    said = [f"{key} {_said(value)}" for key, value in parameters.items() if value not in (None, [])]
    sentences = [
        f"For each participant and task a general linear model was fitted with nilearn "
        f"{metadata.get('Software', {}).get('nilearn', '')} ({observed}; {listed(said)})."
    ]
    if maps:
        n = maps[0].metadata.get("NumberOfParticipants")
        alpha = sidecar(maps[0].other("z")).get("Alpha")
        level = (
            ""
            if alpha is None
            else (
                f"; thresholds are two-sided at {alpha:g}: uncorrected, by the false discovery "
                "rate, and by Bonferroni over the tested units"
            )
        )
        sentences += [
            f"Effects of {n} participants were tested with a one-sample second-level model"
            f"{level}; effect sizes are Cohen's d over participants.",
            str(maps[0].metadata.get("Generalisation", "")),
            *_findings_sentences(sources),
        ]
    return sentences


def _findings_sentences(sources: Sources) -> list[str]:
    findings = sources.findings
    if findings is None:
        return []
    identification = findings.identification
    sentences = [
        f"Tasks were identified by {identification.method}: {identification.n_correct} of "
        f"{identification.n_tests} maps of left-out participants (chance "
        f"{percent(identification.chance)})."
    ]
    if findings.networks:
        sentences.insert(0, f"Networks are units chosen by {findings.networks[0].criterion}.")
    return sentences


def software(sources: Sources) -> list[tuple[str, str]]:
    """List packages with versions, by what they were used for."""
    recorded: Counter[str] = Counter()
    for run in sources.dataset.runs:
        versions = sources.dataset.sidecar(run).get("Versions", {})
        recorded[", ".join(f"{name} {version}" for name, version in versions.items())] += 1
    rows = [("recording", text) for text in recorded if text]
    analysed = _first_level(sources).get("Software", {})
    if analysed:
        text = ", ".join(f"{name} {version}" for name, version in analysed.items())
        rows.append(("statistics", text))
    names = ("numpy", "pandas", "nibabel")
    here = [f"{name} {importlib.metadata.version(name)}" for name in names]
    rows.append(("this page", ", ".join([f"llm2bids {__version__}", *here])))
    return rows


def _first_level(sources: Sources) -> dict[str, Any]:
    paths = sources.files("sub-*/**/func/*_stat-effect_statmap.nii.gz")
    return sidecar(paths[0]) if paths else {}


def _variant(sources: Sources) -> str:
    settings = sources.dataset.settings
    adapter, quantization = settings.get("adapter"), settings.get("quantization")
    return (f" with the adapter {adapter}" if adapter else "") + (
        f", quantized ({quantization})" if quantization else ""
    )


def _bids_version(sources: Sources) -> str:
    metadata = read_object(sources.dataset.path / "dataset_description.json")
    return str(metadata.get("BIDSVersion", ""))


def _past(sampling: str) -> str:
    return "chosen greedily" if sampling == "greedy decoding" else sampling


def _said(value: object) -> str:
    if isinstance(value, list):
        return listed([str(item) for item in value])
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
