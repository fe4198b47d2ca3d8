"""What was done, with which software, and what to cite: a section, and files in every output."""

import importlib.metadata
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llm2bids import __version__
from llm2bids.dataset.layout import DERIVATIVE
from llm2bids.inference.analyze_model import MODEL_COPY
from llm2bids.report.design import about_design
from llm2bids.report.section import listed, read_asset, render, write_text
from llm2bids.report.sources import Sources, find_sources, read_object, sidecar
from llm2bids.store.commit import replace_text
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json

_PAPER = "paper.bib"  # the paper whose method this is


def methods_body(sources: Sources) -> Markup:
    """Write a paragraph that says what was done and with which versions, and references."""
    return render(
        "methods.html",
        text=f"{_recording_text(sources)} {_analysis_text(sources)}",
        bibtex=read_asset(_PAPER).rstrip(),
        software=_software(sources),
    )


def cite_dataset(bids_dir: Path) -> None:
    """Write the files of a recorded dataset, into its derivative."""
    sources = find_sources(bids_dir)
    _write(bids_dir / DERIVATIVE, _recording_text(sources), _software(sources))


def cite_analysis(out_dir: Path, bids_dir: Path) -> None:
    """Write the files of an analysis, with how its dataset was recorded."""
    sources = find_sources(out_dir, bids_dir=bids_dir, analysis_dir=out_dir)
    _write(out_dir, f"{_recording_text(sources)} {_analysis_text(sources)}", _software(sources))


def cite_model(out_dir: Path) -> None:
    """Write the files of a BIDS Stats Model that was run."""
    sidecars = data_files(out_dir, "node-*/**/*_stat-rSquare_statmap.json")
    of_run = read_json(sidecars[0])
    versions = _versions(of_run["Software"])
    model = read_json(out_dir / MODEL_COPY)
    text = write_text(
        "stats_model.txt", model=model, versions=versions, n_runs=len(sidecars), of_run=of_run
    )
    _write(out_dir, text, [("statistics", versions)])


def _write(folder: Path, methods: str, versions: list[tuple[str, str]]) -> None:
    logs = folder / "logs"  # fMRIPrep's name
    packages = "\n".join(f"- {purpose}: {text}" for purpose, text in versions)
    text = read_asset("citation.md").format(methods=methods, software=packages)
    replace_text(logs / "CITATION.md", text)
    replace_text(logs / "CITATION.bib", f"{read_asset(_PAPER)}\n{read_asset('tools.bib')}")


def _recording_text(sources: Sources) -> str:
    """Say how the dataset was recorded."""
    dataset = sources.dataset
    return write_text(
        "recording.txt",
        sources=sources,
        metadata=dataset.sidecar(sources.first_runs()[0]),
        design=about_design(sources),
        bids_version=read_object(dataset.path / "dataset_description.json").get("BIDSVersion", ""),
        version=__version__,
    )


def _analysis_text(sources: Sources) -> str:
    """Say how the dataset was analysed, or that it was not."""
    metadata, maps = _first_level(sources), sources.maps
    parameters = metadata.get("ModelParameters", {})
    return write_text(
        "analysis.txt",
        metadata=metadata,
        parameters=[f"{key} {_said(v)}" for key, v in parameters.items() if v not in (None, [])],
        group=maps[0].metadata if maps else None,
        alpha=sidecar(maps[0].other("z")).get("Alpha") if maps else None,
        findings=sources.findings,
    )


def _software(sources: Sources) -> list[tuple[str, str]]:
    """List packages with versions, by what they were used for."""
    sidecars = [sources.dataset.sidecar(run) for run in sources.dataset.runs]
    recorded = dict.fromkeys(_versions(metadata.get("Versions", {})) for metadata in sidecars)
    analysed = _versions(_first_level(sources).get("Software", {}))
    here = {name: importlib.metadata.version(name) for name in ("numpy", "pandas", "nibabel")}
    rows = [("recording", text) for text in recorded]
    rows += [("statistics", analysed), ("this page", _versions({"llm2bids": __version__} | here))]
    return [(purpose, text) for purpose, text in rows if text]


def _versions(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _first_level(sources: Sources) -> dict[str, Any]:
    paths = sources.files("sub-*/**/func/*_stat-effect_statmap.nii.gz")
    return sidecar(paths[0]) if paths else {}


def _said(value: object) -> str:
    if isinstance(value, list):
        return listed([str(item) for item in value])
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
