"""The page: all sections in one HTML file."""

from dataclasses import replace
from pathlib import Path

from llm2bids.exceptions import UsageError
from llm2bids.options import checked
from llm2bids.report.citation import methods_body
from llm2bids.report.design import design_body, designs_body
from llm2bids.report.findings import (
    calibration_body,
    controls_body,
    identification_body,
    overlap_body,
    repeatability_body,
    summary_body,
)
from llm2bids.report.interventions import intervention_sections
from llm2bids.report.localizer import localizer_sections, stories_body
from llm2bids.report.maps import maps_body, strongest_body
from llm2bids.report.networks import flat_maps_body, profiles_body
from llm2bids.report.quality import quality_body
from llm2bids.report.recorded import coverage_body, recorded_body
from llm2bids.report.section import Section, page_script, write_page
from llm2bids.report.smoothness import smoothness_body
from llm2bids.report.sources import REPORT_NAME, Sources, find_sources
from llm2bids.report.view import view

SCRIPTS = ("copy.js", "map.js", "explore.js")  # scripts of the page, in the order in which they run


@checked
def write_report(
    out_dir: str | Path,
    *,
    bids_dir: str | Path | None = None,
    analysis_dir: str | Path | None = None,
    output: str | Path | None = None,
    niivue: bool = False,
    progress: bool = True,
) -> Path:
    """Write what was recorded and found as one HTML page that needs nothing from outside.

    Parts that were not computed are left out, with the command that makes them.

    Parameters
    ----------
    out_dir : str or Path
        A folder with ``dataset`` and ``analysis`` in it, an output folder of ``llm2bids analyze``,
        or a dataset.
    bids_dir, analysis_dir : str or Path, optional
        Dataset and analysis, where they lie elsewhere.
    output : str or Path, optional
        The page; ``report.html`` in `out_dir` by default. A dataset takes no page: name one.
    niivue : bool
        Write for each task's group map a page of `llm2bids.view` too, in a folder beside the page,
        which has a link to it.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UsageError
        If there is no dataset, or `out_dir` is the dataset and `output` is not given.
    Llm2bidsError
        If a file of dataset or analysis is damaged.
    """
    sources = find_sources(
        Path(out_dir),
        bids_dir=None if bids_dir is None else Path(bids_dir),
        analysis_dir=None if analysis_dir is None else Path(analysis_dir),
    )
    inside = Path(out_dir).resolve() == sources.dataset.path.resolve()
    if output is None and inside:
        raise UsageError(
            f"{out_dir}: is the dataset itself, and BIDS has no place for a page in it; say where "
            "the page goes: --output FILE"
        )
    path = Path(out_dir) / REPORT_NAME if output is None else Path(output)
    sources = replace(sources, page_dir=path.parent)
    if niivue:
        sources = replace(sources, views=_write_views(sources, path))
    write_page(
        path,
        "page.html",
        scripts=[page_script(*SCRIPTS)],
        title=f"{sources.dataset.settings.get('model')}, scanned",
        sources=sources,
        sections=_sections(sources, progress=progress),
    )
    return path


def _write_views(sources: Sources, page: Path) -> dict[str, Path]:
    """Write a page for NiiVue of each group map against the off prompts: z, where there is one."""
    folder = page.with_name(f"{page.stem}_niivue")
    views = {}
    for group_map in sources.condition_maps or sources.maps:
        image = group_map.other("z") if group_map.other("z").exists() else group_map.path
        output = folder / f"{group_map.contrast}.html"
        title = f"{group_map.title}, group"
        views[group_map.contrast] = view(image, sources.dataset, output_file=output, title=title)
    return views


def _sections(sources: Sources, *, progress: bool) -> list[Section]:
    """Write the sections of stories, or of prompts that were answered."""
    if sources.dataset.paradigm.order == "story":  # nothing was answered: no tasks, no effects
        stories = Section("stories", "What was read", stories_body(sources))
        return [stories, *localizer_sections(sources)]
    sections = [
        Section("findings", "In short", summary_body(sources)),
        Section("design", "Design", design_body(sources)),
        Section("recorded", "What was recorded", recorded_body(sources)),
        Section(
            "quality",
            "Quality: runs, carpet plots, confounds",
            quality_body(sources, progress=progress),
        ),
        Section("designs", "Design matrix", designs_body(sources)),
        Section("coverage", "Mask and coverage", coverage_body(sources)),
        Section("maps", "Contrasts and statistical maps", maps_body(sources)),
        Section("strongest", "Cluster table and strongest units", strongest_body(sources)),
        Section("flatmaps", "Networks on the flat map", flat_maps_body(sources)),
        Section("smoothness", "Do neighbours respond alike?", smoothness_body(sources)),
        Section("networks", "Networks by layer and role", profiles_body(sources)),
        Section("overlap", "Overlap", overlap_body(sources)),
        Section("repeatability", "Repeatability", repeatability_body(sources)),
        Section("identification", "Identification", identification_body(sources)),
        Section("controls", "Real beside control", controls_body(sources)),
        Section("calibration", "False positives", calibration_body(sources)),
        *localizer_sections(sources),
        *intervention_sections(sources),
        Section("methods", "Methods, ready to paste", methods_body(sources)),
    ]
    return [section for section in sections if section.body]
