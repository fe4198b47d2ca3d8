"""Sessions of a scan: the intact model, then the edited one, on the same prompts and seeds."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.dataset.layout import INTACT, edit_file
from llm2bids.dataset.settings import is_dataset, read_settings
from llm2bids.exceptions import DatasetError, RecordingError, UsageError
from llm2bids.model.edit import Edit, check_weights
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.batches import OnToken
from llm2bids.recording.draw import Scan
from llm2bids.recording.record import Recording
from llm2bids.store.json import to_json

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

Take = Callable[[Sequence[RunDesign], OnToken], list[Recording]]  # what records a group of runs


def with_sessions(scan: Scan, edit: Edit) -> Scan:
    """Scan every participant twice: ``ses-intact``, and ``ses-<label>`` of the edited model."""
    if edit.label == INTACT:
        raise UsageError(
            f"--edit: its label is {INTACT!r}, the name of the session without it; expected "
            "another one"
        )
    labels = dict.fromkeys(design.participant_label for design in scan.designs)
    designs = [
        replace(design, session=session)
        for label in labels
        for session in (INTACT, edit.label)
        for design in scan.designs
        if design.participant_label == label
    ]
    return replace(scan, designs=tuple(designs))


def edit_settings(edit: Edit) -> dict[str, Any]:
    """Say which edit a dataset's second session is of."""
    content = to_json(edit.metadata()).encode()
    return {"edit": {"label": edit.label, "sha256": hashlib.sha256(content).hexdigest()}}


def check_sessions(bids_dir: Path, edit: Edit | None) -> None:
    """Refuse a session for a dataset without sessions, and a dataset of sessions without edit."""
    if not is_dataset(bids_dir):
        return
    known = read_settings(bids_dir).get("edit")
    if known is None and edit is not None:
        raise DatasetError(
            f"{bids_dir}: was recorded without sessions and cannot gain one: its runs are not "
            f"named ses-{INTACT}; record both sessions into another folder"
        )
    if known is not None and edit is None:
        raise DatasetError(
            f"{bids_dir}: has the sessions {INTACT} and {known['label']}; expected the edit of the "
            f"second one: --edit {bids_dir / edit_file(known['label'])}"
        )


def taking_sessions(take: Take, loaded: "LoadedModel", edit: Edit) -> Take:
    """Record runs of the edited session under the edit, and say so in their sidecars."""
    from llm2bids.model.edit_hooks import applied, editable_sites

    check_weights(loaded, edit)
    sites = editable_sites(loaded, edit)
    provenance = {"edit": edit.label, "edit_file": edit_file(edit.label).as_posix()}

    def take_session(group: Sequence[RunDesign], on_token: OnToken) -> list[Recording]:
        if group[0].session != edit.label:
            return take(group, on_token)
        try:
            with applied(loaded.model, edit, sites):
                recordings = take(group, on_token)
        except RecordingError as error:
            raise RecordingError(
                f"edited model (ses-{edit.label}): {error}; or lower the strength of the edit"
            ) from None
        return [replace(done, provenance={**done.provenance, **provenance}) for done in recordings]

    return take_session
