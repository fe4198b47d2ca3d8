"""The findings of the group level: measured, written, and said in a few lines."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm2bids.inference.analyze import GroupResult
    from llm2bids.network.findings import Findings

log = logging.getLogger(__name__)


def measure(
    result: "GroupResult", bids_dir: Path, *, progress: bool = True, **options: Any
) -> "Findings | None":
    """Measure and write findings of the participants who have every condition; None if too few."""
    from llm2bids.dataset.read import open_dataset
    from llm2bids.inference.group import OTHERS
    from llm2bids.network.dataset_findings import LEAST_PARTICIPANTS, LEAST_TASKS, dataset_findings

    complete = set.intersection(*(set(contrast.participants) for contrast in result.contrasts))
    tasks = [str(c.task) for c in result.contrasts if c.task and not c.label.endswith(OTHERS)]
    if len(complete) < LEAST_PARTICIPANTS or len(tasks) < LEAST_TASKS:
        log.warning(
            "no findings: they take %d participants who did every task and %d tasks, found %d "
            "and %d",
            *(LEAST_PARTICIPANTS, LEAST_TASKS, len(complete), len(tasks)),
        )
        return None
    selected = {"participant_label": sorted(complete), "task": sorted(set(tasks))}
    findings = dataset_findings(bids_dir, result.out_dir, progress=progress, **options | selected)
    findings.save(result.out_dir, open_dataset(bids_dir).space)
    return findings


def describe(findings: "Findings") -> str:
    """Give the findings in a few lines."""
    from llm2bids.network.controls import P_VALUE
    from llm2bids.store.tables import aligned

    lines = []
    for row in findings.table().to_dict("records"):
        number = f"{row['value']:z.2f}" if row["value"] < 10 else f"{row['value']:,.0f}"
        low, high = row["low"], row["high"]
        interval = f"{low:z.2f} to {high:z.2f}" if low == low else ""
        lines.append((row["finding"], row["measure"], number, interval, row["text"]))
    controls = [
        f"control  {control.name}: {row.text} {row.value:z.2f}, the data "
        f"{row.real:z.2f}{'' if row.p_value != row.p_value else f', p {row.p_value:.2g}'}"
        for control in findings.controls[2:]
        for row in control.measures
    ]
    if any(", p " in line for line in controls):
        controls.append(f"control  p: {P_VALUE}")
    model = f"model  {findings.model}; {findings.n_units:,} of {findings.n_units_of_space:,} units"
    notes = [f"note: {warning}" for warning in findings.warnings]
    notes += [f"note: no {part}: {reason}" for part, reason in findings.omitted.items()]
    return "\n".join([model, aligned(lines, right=[2]), *controls, *notes])
