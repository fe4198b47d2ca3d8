"""The official BIDS validator on a dataset and its derivative."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2bids.dataset.layout import DERIVATIVE
from llm2bids.dataset.sidecar import fill_json
from llm2bids.exceptions import DatasetError
from llm2bids.options import checked
from llm2bids.store.json import to_json

PROGRAM = "bids-validator-deno"  # name of the program; `pip install bids-validator-deno` brings it


@dataclass(frozen=True, kw_only=True)
class Issue:
    """One thing that the validator found."""

    dataset: str  # ``raw`` or ``derivative``
    severity: str  # ``error`` or ``warning``
    code: str
    file: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What the validator says of a dataset and its derivative.

    Parameters
    ----------
    path : Path
        The dataset.
    issues : tuple of Issue
        Each with `dataset` (raw or derivative), `severity` (error or warning), `code`, `file`.
    n_files : tuple of (str, int)
        Files that were looked at, by dataset.
    """

    path: Path
    issues: tuple[Issue, ...]
    n_files: tuple[tuple[str, int], ...]

    @property
    def n_errors(self) -> int:
        """Number of errors."""
        return sum(issue.severity == "error" for issue in self.issues)

    @property
    def n_warnings(self) -> int:
        """Number of warnings."""
        return sum(issue.severity == "warning" for issue in self.issues)

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Count issues by dataset, severity and code.

        Returns
        -------
        dict
            Number by (dataset, severity, code).
        """
        return dict(Counter((issue.dataset, issue.severity, issue.code) for issue in self.issues))

    def describe(self) -> str:
        """Say in a few lines what is wrong.

        Returns
        -------
        str
            Numbers of files, errors and warnings; each code with an example.
        """
        lines = []
        for name, n_files in self.n_files:
            n = Counter(issue.severity for issue in self.issues if issue.dataset == name)
            counted = f"{n['error']} errors, {n['warning']} warnings"
            lines.append(f"{self.path} ({name}): {n_files} files, {counted}")
        for (name, severity, code), number in sorted(self.counts().items()):
            example = next(
                issue.file for issue in self.issues if (issue.dataset, issue.code) == (name, code)
            )
            lines.append(f"  {name}: {severity} {code}, {number} times, e.g. {example}")
        return "\n".join(lines)


@checked
def validate(bids_dir: str | Path) -> Validation:
    """Run the official BIDS validator on a dataset and on its derivative, each as one of its own.

    Warnings that no dataset of a language model can avoid without inventing metadata are silenced
    by the configuration that is shipped with every dataset (``code/bids-validator-config.json``),
    which names their codes and the reason.

    Parameters
    ----------
    bids_dir : str or Path
        The raw dataset.

    Returns
    -------
    Validation
        Errors and warnings.

    Raises
    ------
    DatasetError
        If the folder is missing, the validator is not installed, or it fails.
    """
    root = Path(bids_dir)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; expected a BIDS dataset")
    program = find_validator()
    datasets = {"raw": root}
    if (root / DERIVATIVE).is_dir():
        datasets["derivative"] = root / DERIVATIVE
    issues: list[Issue] = []
    n_files = []
    for name, path in datasets.items():
        report = _report(program, path)
        issues.extend(_issues(name, report))
        n_files.append((name, int(report["summary"]["totalFiles"])))
    return Validation(path=root, issues=tuple(issues), n_files=tuple(n_files))


def find_validator() -> str:
    """Find the validator beside this Python, or on the path of programs."""
    beside = Path(sys.executable).with_name(PROGRAM)
    program = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if program is None:
        raise DatasetError(
            f"{PROGRAM} is not installed; install it with `pip install 'llm2bids[demo]'`"
        )
    return program


def _report(program: str, path: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(to_json(fill_json("validator_config.json", {})), encoding="utf-8")
        options = ("--format", "json", "--max-rows", "-1")
        done = subprocess.run(
            [program, str(path.absolute()), *options, "--config", str(config)],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise DatasetError(
            f"{path}: {program} gave no report (exit status {done.returncode}): "
            f"{(done.stderr or done.stdout).strip()[-500:]}"
        ) from None
    return report


def _issues(name: str, report: dict[str, Any]) -> list[Issue]:
    return [
        Issue(
            dataset=name,
            severity=str(issue.get("severity")),
            code=":".join(str(issue[key]) for key in ("code", "subCode") if issue.get(key)),
            file=str(issue.get("location", "")),
            message=str(issue.get("issueMessage") or issue.get("rule") or ""),
        )
        for issue in report["issues"]["issues"]
        if issue.get("severity") in ("error", "warning")
    ]
