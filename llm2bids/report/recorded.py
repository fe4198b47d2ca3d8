"""Section: what was recorded."""

from typing import Any

from llm2bids.report.layers import roles_of
from llm2bids.report.section import Section, render
from llm2bids.report.sources import Sources
from llm2bids.space.atlas import role_colors
from llm2bids.space.space import Space


def recorded_section(sources: Sources) -> Section:
    """Describe model, space and recording.

    Parameters
    ----------
    sources : Sources
        The dataset.

    Returns
    -------
    Section
        Facts, and the sites by role.
    """
    dataset = sources.dataset
    about = dataset.sidecar(sources.first_runs()[0])
    return Section(
        name="recorded",
        title="What was recorded",
        body=render(
            "recorded.html",
            space=dataset.space,
            about=about,
            roles=role_table(dataset.space),
            n_layers=len({site.layer for site in dataset.space.sites} - {None}),
            n_runs=len(dataset.runs),
            n_volumes=sum(int(dataset.sidecar(run).get("NumberOfVolumes", 0))
                          for run in dataset.runs),
            fingerprint=dataset.fingerprint,
            clip=(32767 - about.get("Baseline", 10000)) / about.get("CountsPerSD", 500),
        ),
    )  # fmt: skip


def role_table(space: Space) -> list[dict[str, Any]]:
    """Sum the sites up by role.

    Parameters
    ----------
    space : Space
        The space.

    Returns
    -------
    list of dict
        ``role``, ``color``, ``n_sites``, ``width`` (of one site, a range where it varies),
        ``heads``, ``n_units``, ``share`` (of all units), in recording order; modules outside the
        layers come one by one.
    """
    colors = role_colors(site.role for site in space.sites)
    inside = roles_of(space)
    order = list(dict.fromkeys(site.role for site in space.sites))
    rows = []
    for role in order:
        sites = [site for site in space.sites if site.role == role]
        widths = sorted({site.width for site in sites})
        heads = sorted({f"{s.n_heads} × {s.head_size}" for s in sites if s.n_heads})
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
