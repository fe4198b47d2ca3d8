"""The paper's four findings: networks, overlap, repeatability, identification; and their files.

After Nencka et al. (arXiv 2311.10898): the tasks have networks, alike tasks have alike networks,
networks come again with other prompts, and tell which task was shown.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from llm2bids.dataset.sidecar import fill_text
from llm2bids.exceptions import NetworkError
from llm2bids.inference.provenance import Provenance, circularity_note
from llm2bids.inference.statmap import list_results, sentence, software, write_json
from llm2bids.network.controls import P_VALUE, Control
from llm2bids.network.identification import TAKEN_OFF, AccuracyCurve, Identification
from llm2bids.network.network import load_network
from llm2bids.network.overlap import Overlap
from llm2bids.network.repeatability import Repeatability
from llm2bids.network.stored import apart, from_plain, to_plain
from llm2bids.network.task_networks import TaskNetwork
from llm2bids.options import checked
from llm2bids.space.space import Space
from llm2bids.store.commit import replace_text
from llm2bids.store.tables import write_table

# Where findings lie in the output folder of ``llm2bids analyze``
FOLDER = Path("group", "findings")

_ENOUGH_PARTICIPANTS = 8  # participants from which on network fingerprints are stable

NOTE = (
    "Identification is easy, and no evidence of localisation: random units do nearly as well as "
    "all. Templates never come from the participants and prompts that they are tested on."
)

_MOST_SITES = 10  # layers and roles of a network that `findings.json` lists, those with most units

TABLE_COLUMNS = ("finding", "measure", "value", "low", "high", "text")


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """Networks of the tasks, their overlap and repeatability, and identification of the task.

    Parameters
    ----------
    space, fingerprint : str
        Label of the space, and its fingerprint without calibration.
    n_units, n_units_of_space : int
        Units that were counted, those in the mask of the participant level, and all.
    model : str
        What was fitted.
    participants, tasks : tuple of str
        Whose maps of which tasks.
    n_on, n_off, n_tokens : int
        Prompts and volumes per prompt of the smallest run.
    networks : tuple of TaskNetwork
        Against the off prompts, then against the other tasks; `network` is a `Network`.
    overlap : Overlap
        Correlation and Dice of all pairs, shape (n_tasks, n_tasks), with intervals and chance.
    repeatability : Repeatability
        Single maps, halves of participants and of prompts, agreement at each unit.
    identification : Identification
        Task given to each map of a participant left out.
    by_prompts, by_tokens : AccuracyCurve or None
        Accuracy with fewer prompts, and with their first tokens only.
    controls : tuple of Control
        Random units, shuffled labels, then those that were asked for.
    omitted : dict of str to str
        Why a part is missing.
    cautions : tuple of str
        What is known about the error rate of the model.
    provenance : Provenance
        Participants, runs and prompts of all maps.
    """

    space: str
    fingerprint: str
    n_units: int
    n_units_of_space: int
    model: str
    participants: tuple[str, ...]
    tasks: tuple[str, ...]
    n_on: int
    n_off: int
    n_tokens: int
    networks: tuple[TaskNetwork, ...] = apart()
    overlap: Overlap
    repeatability: Repeatability
    identification: Identification
    by_prompts: AccuracyCurve | None
    by_tokens: AccuracyCurve | None
    controls: tuple[Control, ...]
    omitted: dict[str, str]
    cautions: tuple[str, ...]
    provenance: Provenance

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the findings doubtful."""
        warnings = [*self.cautions, *self.overlap.warnings]
        if len(self.participants) < _ENOUGH_PARTICIPANTS:
            warnings.append(
                f"{len(self.participants)} participants: networks are stable from "
                f"{_ENOUGH_PARTICIPANTS} on"
            )
        warnings += [warning for control in self.controls for warning in control.warnings]
        shared = self.identification.shared | self.repeatability.shared
        return (*warnings, circularity_note(shared)) if shared else tuple(warnings)

    @property
    def curve(self) -> pd.DataFrame:
        """Both curves in one table, each point once."""
        curves = [curve.table() for curve in (self.by_prompts, self.by_tokens) if curve is not None]
        if not curves:
            return pd.DataFrame(columns=["n_tokens", "n_prompts", "accuracy"])
        points = pd.concat(curves, ignore_index=True)
        return points.drop_duplicates(["n_tokens", "n_prompts"])

    def table(self) -> pd.DataFrame:
        """Give the findings in a few rows.

        Returns
        -------
        DataFrame
            Columns ``finding``, ``measure``, ``value``, ``low``, ``high``, ``text``; NaN where
            there is no interval.
        """
        rows = [*self._identified(), *self._overlaps(), *self._repeated(), *self._sizes()]
        return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))

    def controls_table(self) -> pd.DataFrame:
        """List the measures of the data beside those of each control.

        Returns
        -------
        DataFrame
            One row for each control and measure.
        """
        return pd.concat([control.table() for control in self.controls], ignore_index=True)

    def save(self, out_dir: Path | str, space: Space) -> tuple[Path, ...]:
        """Write the findings into the output folder of ``llm2bids analyze``, whole and anew.

        Parameters
        ----------
        out_dir : Path or str
            The output folder.
        space : Space
            The dataset's.

        Returns
        -------
        tuple of Path
            Files of ``group/findings``.
        """
        folder = Path(out_dir) / FOLDER
        remove_findings(Path(out_dir))
        files: list[Path] = []
        for network in self.networks:
            path, image = folder / network.table, folder / network.image
            network.network.save(path)
            nib.save(network.network.to_img(space, statistic="effect"), image)
            files += [path, image]
        tables = {
            "findings": self.table(),
            "overlap": self.overlap.pairs(),
            "repeatability": self.repeatability.table(),
            "identification": self.identification.table(),
            "confusion": self.identification.confusion.reset_index(),
            "identification_curve": self.curve,
            "controls": self.controls_table(),
        }
        for name, table in tables.items():
            write_table(folder / f"{name}.tsv", table)
        readme = fill_text("findings/README.md", {"taken_off": TAKEN_OFF, "p_value": P_VALUE})
        replace_text(folder / "README.md", readme)
        write_json(folder / "findings.json", self._content(space))
        list_results(Path(out_dir), "group")
        return (*files, *(folder / f"{name}.tsv" for name in tables), folder / "findings.json")

    @classmethod
    @checked
    def load(cls, out_dir: str | Path) -> "Findings | None":
        """Read the findings that `save` wrote.

        Parameters
        ----------
        out_dir : str or Path
            The output folder.

        Returns
        -------
        Findings or None
            None where the folder has none.

        Raises
        ------
        NetworkError
            If they are damaged, or of another version.
        """
        path = Path(out_dir) / FOLDER / "findings.json"
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            networks = tuple(
                from_plain(TaskNetwork, part, network=load_network(path.parent / part["table"]))
                for part in content["networks"]
            )
            controls = tuple(from_plain(Control, part) for part in content["controls"]["all"])
            return from_plain(cls, content, networks=networks, controls=controls)
        except (KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError) as error:
            raise NetworkError(
                f"{path}: is not what this version of llm2bids writes ({type(error).__name__}: "
                f"{error}); run `llm2bids analyze BIDS_DIR OUT_DIR group` again"
            ) from None

    def _content(self, space: Space) -> dict[str, Any]:
        """Give what ``findings.json`` holds: the findings, and tables of them for readers."""
        content: dict[str, Any] = to_plain(self)
        content["networks"] = [
            {
                **to_plain(network),
                "summary": to_plain(
                    network.network.summary(space)
                    .sort_values("n_units", ascending=False, kind="stable")
                    .head(_MOST_SITES)
                ),
            }
            for network in self.networks
        ]
        content["overlap"]["pairs"] = to_plain(self.overlap.pairs())
        content["repeatability"]["tasks"] = to_plain(self.repeatability.table())
        curves = {"prompts": self.by_prompts, "tokens": self.by_tokens}
        content["identification"] |= {
            "confusion": to_plain(self.identification.confusion.to_numpy()),
            "tests": to_plain(self.identification.table()),
            "curve": {
                name: to_plain(curve.table()) for name, curve in curves.items() if curve is not None
            },
            "controls": [
                {"name": control.name, "mean": measure.value, **to_plain(measure)}
                for control in self.controls[:2]
                for measure in control.measures
            ],
            "note": NOTE,
        }
        asked = self.controls[2:]
        content["controls"] = {
            "about": {control.name: control.about for control in asked},
            "rows": [row for control in asked for row in to_plain(control.table())],
            "all": content["controls"],
        }
        return {
            **content,
            "n_prompts": {"on": self.n_on, "off": self.n_off},
            "table": to_plain(self.table()),
            "warnings": to_plain(self.warnings),
            "generalisation": sentence("generalisation"),
            "software": software(),
        }

    def _identified(self) -> Iterator[tuple[object, ...]]:
        identified = self.identification
        yield (
            "identification",
            "accuracy",
            identified.accuracy,
            *identified.interval(),
            f"{identified.n_correct} of {identified.n_tests} maps of left-out participants, "
            f"{TAKEN_OFF} ({identified.n_correct_with_mean} with it left in), chance "
            f"{identified.chance:.2f}",
        )
        for control in self.controls[:2]:
            for measure in control.measures:
                yield (
                    *("identification", control.name, measure.value, measure.low, measure.high),
                    f"mean of {measure.n_draws} draws, and where 95 % of them lie",
                )

    def _overlaps(self) -> Iterator[tuple[object, ...]]:
        for row, pair in enumerate(self.overlap.pairs().head(2).to_dict("records")):
            yield (
                "overlap",
                f"{('first', 'second')[row]} pair, r",
                pair["correlation"],
                pair["correlation_low"],
                pair["correlation_high"],
                f"{pair['task_a']} and {pair['task_b']}: Dice {pair['dice']:.2f}, "
                f"chance {pair['chance']:.3f}",
            )

    def _repeated(self) -> Iterator[tuple[object, ...]]:
        part = self.repeatability
        dice = f"split-half Dice of the top {self.overlap.share:.0%}, participants"
        measures = {
            "single-run r": part.single_run.mean_r,
            "split-half r, participants": part.participants.mean_r,
            **({} if part.prompts is None else {"split-half r, prompts": part.prompts.mean_r}),
            dice: part.participants.mean_dice,
        }
        for name, values in measures.items():
            low, high = int(values.argmin()), int(values.argmax())
            yield (
                *("repeatability", name, float(values.mean()), np.nan, np.nan),
                f"mean over tasks; {values[low]:z.2f} ({self.tasks[low]}) to "
                f"{values[high]:z.2f} ({self.tasks[high]})",
            )

    def _sizes(self) -> Iterator[tuple[object, ...]]:
        for network in self.networks:
            if network.against == "off":
                yield (
                    *("networks", network.task, float(network.n_units), np.nan, np.nan),
                    f"units ({network.criterion}); {network.n_fdr:,} of them and "
                    f"{network.n_fdr_anywhere:,} of all {self.n_units:,} pass false discovery rate "
                    f"{network.alpha:g}, unit by unit",
                )


def remove_findings(out_dir: Path) -> None:
    """Remove findings that an earlier call wrote."""
    folder = out_dir / FOLDER
    if folder.exists():
        shutil.rmtree(folder)
        list_results(out_dir, "group")
