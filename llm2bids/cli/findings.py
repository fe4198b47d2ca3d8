"""The findings of the group level: measured, written, and said in a few lines."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm2bids.inference.analyze import GroupResult
    from llm2bids.network.control_analysis import ControlName
    from llm2bids.network.findings import Findings

log = logging.getLogger(__name__)


def measure(
    result: "GroupResult",
    bids_dir: Path,
    *,
    top_percent: float = 5.0,
    alpha: float = 0.05,
    min_cohens_d: float | None = None,
    controls: "Sequence[ControlName]" = (),
    control_datasets: "Sequence[Path]" = (),
    n_control_draws: int = 20,
    seed: int = 0,
    allow_circular: bool = False,
    mem_gb: float | None = None,
    work_dir: Path | None = None,
    progress: bool = True,
) -> "Findings | None":
    """Measure and write the findings of the participants who take part in every contrast.

    Parameters
    ----------
    result : GroupResult
        What the group level wrote; the findings go into its folder.
    bids_dir : Path
        The dataset.
    top_percent, alpha, min_cohens_d, controls, control_datasets, n_control_draws, seed, \
    allow_circular, mem_gb, work_dir, progress
        As in :func:`llm2bids.network.dataset_findings.dataset_findings`.

    Returns
    -------
    Findings or None
        None, with a warning, where there are too few participants or tasks.

    Raises
    ------
    Llm2bidsError
        If the data do not serve, e.g. because participants share prompts.
    """
    from llm2bids.network.dataset_findings import dataset_findings
    from llm2bids.network.findings import LEAST_PARTICIPANTS, LEAST_TASKS
    from llm2bids.network.findings_files import write_findings
    from llm2bids.network.task_networks import OTHERS

    complete = set.intersection(*(set(one.participants) for one in result.contrasts))
    against_off = [one for one in result.contrasts if one.task and not one.label.endswith(OTHERS)]
    if len(complete) < LEAST_PARTICIPANTS or len(against_off) < LEAST_TASKS:
        log.warning(
            "no findings: they take %d participants who did every task and %d tasks, found %d "
            "and %d",
            *(LEAST_PARTICIPANTS, LEAST_TASKS, len(complete), len(against_off)),
        )
        return None
    found = dataset_findings(
        bids_dir,
        participant_label=sorted(complete),
        task=sorted({str(one.task) for one in against_off}),
        top_percent=top_percent,
        alpha=alpha,
        min_cohens_d=min_cohens_d,
        controls=controls,
        control_datasets=control_datasets,
        n_control_draws=n_control_draws,
        seed=seed,
        allow_circular=allow_circular,
        mem_gb=mem_gb,
        work_dir=work_dir,
        progress=progress,
    )
    write_findings(found, result.out_dir)
    return found


def describe(findings: "Findings") -> str:
    """Give the findings in a few lines."""
    lines = []
    for row in findings.table().to_dict("records"):
        number = f"{row['value']:.2f}" if row["value"] < 10 else f"{row['value']:,.0f}"
        interval = f"{row['low']:.2f} to {row['high']:.2f}" if row["low"] == row["low"] else ""
        lines.append((row["finding"], row["measure"], number, interval, row["text"]))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    rows = [
        "  ".join(
            [
                finding.ljust(widths[0]),
                measure.ljust(widths[1]),
                number.rjust(widths[2]),
                interval.ljust(widths[3]),
                text,
            ]
        )
        for finding, measure, number, interval, text in lines
    ]
    controls = [
        f"control  {row['control']}: {row['text']} {row['value']:.2f}, the data {row['real']:.2f}"
        for one in findings.control_analyses
        for row in one.table().to_dict("records")
    ]
    notes = [f"note: {warning}" for warning in findings.warnings]
    return "\n".join([*rows, *controls, *notes])
