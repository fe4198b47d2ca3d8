"""Section: what was recorded."""

from typing import Any

from llm2bids.dataset.first_files import EXACTNESS
from llm2bids.report.layers import roles_of
from llm2bids.report.section import Section, render
from llm2bids.report.sources import Sources, read_object
from llm2bids.space.atlas import role_colors
from llm2bids.space.space import Space


def recorded_section(sources: Sources) -> Section:
    """Describe model, space and recording, and list the sites by role."""
    dataset = sources.dataset
    space = dataset.space
    metadata = dataset.sidecar(sources.first_runs()[0])
    body = render(
        "recorded.html",
        space=space,
        metadata=metadata,
        roles=_role_table(space),
        n_layers=len({site.layer for site in space.sites} - {None}),
        n_runs=len(dataset.runs),
        n_volumes=sum(int(dataset.sidecar(run).get("NumberOfVolumes", 0)) for run in dataset.runs),
        fingerprint=dataset.fingerprint,
        highest=(32767 - metadata["Baseline"]) / metadata["CountsPerSD"],
        settings=dataset.settings,
        exactness=read_object(dataset.path / EXACTNESS),
        lowest=(-32768 - metadata["Baseline"]) / metadata["CountsPerSD"],
    )
    return Section(name="recorded", title="What was recorded", body=body)


def _role_table(space: Space) -> list[dict[str, Any]]:
    """Sum the sites up by role, in recording order; modules outside the layers come one by one."""
    colors = role_colors(site.role for site in space.sites)
    inside = roles_of(space)
    rows = []
    for role in dict.fromkeys(site.role for site in space.sites):
        sites = [site for site in space.sites if site.role == role]
        widths = sorted({site.width for site in sites})
        heads = sorted({f"{site.n_heads} × {site.head_size}" for site in sites if site.n_heads})
        n_units = sum(site.width for site in sites)
        rows.append(
            {
                "role": role,
                "color": colors.get(role, "#888888"),
                "in_layers": role in inside,
                "n_sites": len(sites),
                "width": "–".join(f"{n:,}" for n in dict.fromkeys((widths[0], widths[-1]))),
                "heads": ", ".join(heads),
                "n_units": n_units,
                "share": n_units / space.n_units,
            }
        )
    return rows
