"""The arrangement of a scan: what was asked for, its settings, and the space that comes of it."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.dataset.arrangement import LOCALIZER_PROMPTS, Given, learned_space, read_given
from llm2bids.dataset.settings import is_dataset, read_settings
from llm2bids.exceptions import DatasetError, UsageError
from llm2bids.paradigm.seed import derive_seed
from llm2bids.recording.batches import OnToken
from llm2bids.recording.calibration import scan_localizer
from llm2bids.recording.draw import Scan
from llm2bids.scan.options import ScanOptions
from llm2bids.space.definition import ARRANGEMENTS
from llm2bids.space.functional import FEWEST_PROMPTS, METHOD, check_widths, random_space
from llm2bids.space.smoothness import Stability
from llm2bids.space.space import Space

if TYPE_CHECKING:
    from llm2bids.model.units import Site
    from llm2bids.scan.prepare import Prepared

log = logging.getLogger(__name__)

# Units from which on panels are arranged in several processes; fewer are done in one sooner.
_PARALLEL_FROM = 50_000

_MOST_PROCESSES = 4  # processes that arrange panels


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The arrangement that a scan is to have."""

    name: str  # ``index``, ``functional`` or ``random``
    localizer_prompts: int | None = None  # prompts of each task's bank in the localizer
    given: Given | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What must not change within a dataset; nothing in index arrangement, as of old."""
        if self.name == "index":
            return {}
        entries: dict[str, Any] = {"arrangement": self.name}
        if self.localizer_prompts is not None:
            entries["localizer_prompts"] = self.localizer_prompts
        if self.name == "functional":
            entries["arrangement_method"] = METHOD
        if self.given is not None:
            entries["arrangement_sha256"] = self.given.sha256
        return entries


def choose_arrangement(options: ScanOptions) -> Choice:
    """Read what was asked for."""
    arrangement, localizer_prompts = options.arrangement, options.localizer_prompts
    if arrangement != "functional" and localizer_prompts is not None:
        raise UsageError(
            f"localizer_prompts (--localizer-prompts) is {localizer_prompts} in {arrangement} "
            "arrangement, which has no localizer; leave it out, or take --arrangement functional"
        )
    if arrangement == "functional":
        number = LOCALIZER_PROMPTS if localizer_prompts is None else localizer_prompts
        return Choice(name="functional", localizer_prompts=number)
    if arrangement in ARRANGEMENTS:
        return Choice(name=str(arrangement))
    return Choice(name="given", given=read_given(Path(arrangement)))


def refuse_old_method(bids_dir: Path) -> None:
    """Refuse to record on in an order that older versions learned by another method."""
    method = read_settings(bids_dir).get("arrangement_method") if is_dataset(bids_dir) else None
    if method not in (None, METHOD):
        raise DatasetError(
            f"{bids_dir}: its functional arrangement was learned by {method}, which is no longer "
            "offered; it can be read and analysed, but not recorded on: record a new dataset "
            f"(--arrangement {bids_dir} takes the same order)"
        )


def check_localizer(choice: Choice, scan: Scan, sites: Sequence["Site"]) -> None:
    """Refuse a localizer that cannot serve before anything is recorded."""
    if choice.name != "functional":
        return
    n_prompts, n_tokens = len(scan.localizer), scan.paradigm.tokens_per_prompt
    n_off = len(scan.calibration)
    single = choice.localizer_prompts == 1
    if n_prompts < FEWEST_PROMPTS or n_off < 2 or single:
        raise UsageError(
            f"localizer: {n_prompts} prompts, {n_off} of them off topic, make "
            f"{n_prompts * n_tokens} tokens; a functional arrangement needs "
            f"{FEWEST_PROMPTS * n_tokens} tokens or more ({FEWEST_PROMPTS} prompts of {n_tokens}), "
            "with 2 or more off prompts and none or 2 of each task: raise calibration_prompts in "
            "the paradigm or --localizer-prompts"
        )
    check_widths(sites)


def arranged_space(
    space: Space, prepared: "Prepared", on_token: OnToken
) -> tuple[Space, Stability | None]:
    """Arrange the space of a new dataset."""
    choice, scan = prepared.choice, prepared.scan
    if choice.given is not None:
        return choice.given.apply(space), choice.given.stability
    if choice.name == "random":
        return random_space(space, seed=derive_seed(scan.seed, "arrangement")), None
    if choice.name == "index":
        return space, None
    how = prepared.rest_scan("localizer", on_token)
    localizer = scan_localizer(prepared.loaded, scan.localizer, space.sites, how)
    began = time.perf_counter()
    made, stability = learned_space(
        space,
        localizer,
        baseline=scan.paradigm.baseline,
        n_jobs=min(os.cpu_count() or 1, _MOST_PROCESSES) if space.n_units > _PARALLEL_FROM else 1,
    )
    log.info("arranged %s units in %.1f s", f"{space.n_units:,}", time.perf_counter() - began)
    return made, stability
