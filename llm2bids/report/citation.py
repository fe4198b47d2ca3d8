"""What was done and what to cite, in every output: ``logs/CITATION.md`` and ``.bib``."""

from pathlib import Path

from llm2bids.dataset.layout import DERIVATIVE
from llm2bids.inference.analyze_model import MODEL_COPY
from llm2bids.report.group_map import find_maps
from llm2bids.report.methods import BIBTEX, analysis_sentences, recording_sentences, software
from llm2bids.report.section import counted, listed
from llm2bids.report.sources import find_sources
from llm2bids.store.commit import replace_text
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json

FOLDER = "logs"
"""Folder of the files, fMRIPrep's."""

_TOOLS = """@article{abraham2014machine,
  title   = {Machine learning for neuroimaging with scikit-learn},
  author  = {Abraham, Alexandre and Pedregosa, Fabian and Eickenberg, Michael and others},
  journal = {Frontiers in Neuroinformatics},
  volume  = {8},
  pages   = {14},
  year    = {2014},
  doi     = {10.3389/fninf.2014.00014}
}

@article{gorgolewski2016brain,
  title   = {The brain imaging data structure, a format for organizing and describing outputs of
             neuroimaging experiments},
  author  = {Gorgolewski, Krzysztof J. and Auer, Tibor and Calhoun, Vince D. and others},
  journal = {Scientific Data},
  volume  = {3},
  pages   = {160044},
  year    = {2016},
  doi     = {10.1038/sdata.2016.44}
}

@article{yarkoni2019pybids,
  title   = {{PyBIDS}: Python tools for {BIDS} datasets},
  author  = {Yarkoni, Tal and Markiewicz, Christopher J. and de la Vega, Alejandro and others},
  journal = {Journal of Open Source Software},
  volume  = {4},
  number  = {40},
  pages   = {1294},
  year    = {2019},
  doi     = {10.21105/joss.01294}
}"""

_CITE = (
    "Please cite the paper whose method this is (Nencka et al., 2023), llm2bids with its version, "
    "and the tools that did the work: nilearn for the statistics (Abraham et al., 2014), BIDS for "
    "the layout of the data (Gorgolewski et al., 2016), pybids for reading it (Yarkoni et al., "
    "2019). Entries for all of them are in CITATION.bib."
)


def cite_dataset(bids_dir: Path) -> None:
    """Write the files of a recorded dataset, into its derivative."""
    sources = find_sources(bids_dir)
    _write(bids_dir / DERIVATIVE, recording_sentences(sources), software(sources))


def cite_analysis(out_dir: Path, bids_dir: Path) -> None:
    """Write the files of an analysis, with how its dataset was recorded."""
    sources = find_sources(out_dir, bids_dir=bids_dir, analysis_dir=out_dir)
    sentences = [*recording_sentences(sources), *analysis_sentences(sources, find_maps(sources))]
    _write(out_dir, sentences, software(sources))


def cite_model(out_dir: Path) -> None:
    """Write the files of a BIDS Stats Model that was run."""
    model = read_json(out_dir / MODEL_COPY)
    first = model["Nodes"][0]["Name"]
    sidecars = data_files(out_dir, "node-*/**/*_stat-rSquare_statmap.json")
    of_run = read_json(sidecars[0])
    versions = ", ".join(f"{name} {version}" for name, version in of_run["Software"].items())
    nodes = [
        f"{node['Name']} ({node['Level'].lower()}, {node['Model']['Type']})"
        for node in model["Nodes"]
    ]
    smoothing = of_run["SmoothingFWHM"]
    sentences = [
        f"The BIDS Stats Model {model['Name']} was run with {versions}: nodes {listed(nodes)}.",
        f"Each of {counted(len(sidecars), 'run')} was fitted by a general linear model (node "
        f"{first}; noise model {of_run['NoiseModel']}; "
        + (f"smoothed with {smoothing:g} mm; " if smoothing else "not smoothed; ")
        + "series in per cent of each voxel's mean).",
    ]
    _write(out_dir, sentences, [("statistics", versions)])


def _write(folder: Path, sentences: list[str], versions: list[tuple[str, str]]) -> None:
    rows = "\n".join(f"- {purpose}: {text}" for purpose, text in versions)
    text = (
        f"# Methods, ready to paste\n\n{' '.join(sentences)}\n\n## Software\n\n{rows}\n\n"
        f"## How to cite\n\n{_CITE}\n"
    )
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    replace_text(folder / FOLDER / "CITATION.md", text)
    replace_text(folder / FOLDER / "CITATION.bib", f"{BIBTEX}\n\n{_TOOLS}\n")
