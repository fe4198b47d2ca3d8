"""The page: all sections in one HTML file."""

from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from llm2bids import __version__
from llm2bids.exceptions import UsageError
from llm2bids.report.citation import methods_section
from llm2bids.report.design import design_section, designs_section
from llm2bids.report.findings import findings_sections, summary_section
from llm2bids.report.interventions import intervention_sections
from llm2bids.report.localizer import localizer_sections, stories_section
from llm2bids.report.maps import maps_section, strongest_section
from llm2bids.report.networks import networks_sections
from llm2bids.report.quality import quality_section
from llm2bids.report.recorded import coverage_section, recorded_section
from llm2bids.report.section import Section, page_script, read_asset, render, script_hash
from llm2bids.report.smoothness import smoothness_section
from llm2bids.report.sources import REPORT_NAME, Sources, find_sources
from llm2bids.report.view import view
from llm2bids.store.commit import replace_text

SCRIPTS = ("copy.js", "map.js", "explore.js")  # scripts of the page, in the order in which they run


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
    text = _build_page(sources, progress=progress)
    replace_text(path, text)
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


def _build_page(sources: Sources, *, progress: bool = True) -> str:
    """Put the page together; its security policy allows this script alone, and no address."""
    if sources.dataset.paradigm.order == "story":  # nothing was answered: no tasks, no effects
        sections = [stories_section(sources), *localizer_sections(sources)]
    else:
        sections = _scan_sections(sources, progress=progress)
    script = page_script(*SCRIPTS)
    return str(
        render(
            "page.html",
            title=f"{sources.dataset.settings.get('model')}, scanned",
            sources=sources,
            sections=sections,
            style=Markup(read_asset("style.css")),
            script=Markup(script),
            script_hash=script_hash(script),
            version=__version__,
        )
    )


def _scan_sections(sources: Sources, *, progress: bool) -> list[Section]:
    """Put the sections of prompts that were answered together."""
    short = summary_section(sources)
    flat_maps, profiles = networks_sections(sources)
    return [
        *([] if short is None else [short]),
        design_section(sources),
        recorded_section(sources),
        quality_section(sources, progress=progress),
        designs_section(sources),
        coverage_section(sources),
        maps_section(sources),
        strongest_section(sources),
        flat_maps,
        smoothness_section(sources),
        profiles,
        *findings_sections(sources),
        *localizer_sections(sources),
        *intervention_sections(sources),
        methods_section(sources),
    ]
