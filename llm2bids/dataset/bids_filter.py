"""Runs that a BIDS filter file chooses, by pybids, as fMRIPrep reads such a file."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm2bids.dataset.layout import Run
from llm2bids.dataset.read import Dataset
from llm2bids.exceptions import UsageError

_EXAMPLE = '{"bold": {"task": "pathology", "run": [1, 2]}}'


def read_bids_filter(path: Path) -> dict[str, Any]:
    """Read the filters of the bold series: pybids' entity to a value or a list of values."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: not readable as JSON ({error}); expected a BIDS filter file like {_EXAMPLE}"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("bold"), dict):
        raise UsageError(f"{path}: found no filters of bold; expected a file like {_EXAMPLE}")
    others = [name for name in content if name != "bold"]
    if others:
        raise UsageError(
            f"{path}: found filters of {', '.join(others)}; only bold series are analysed, "
            f"expected a file like {_EXAMPLE}"
        )
    for name, value in content["bold"].items():
        items = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(item, str | int) for item in items):
            raise UsageError(
                f"{path}: {name}: found {json.dumps(value)}; expected a text, a whole number, null "
                '(no such entity), "*" (any), or a list of texts and numbers'
            )
    return dict(content["bold"])


@contextmanager
def pybids_layout(
    bids_dir: Path, derivatives: Sequence[Path] = (), *, index_metadata: bool = True
) -> Iterator[Any]:
    """Index a dataset with pybids, and close its database, which pybids leaves open."""
    from bids.layout import BIDSLayout, BIDSLayoutIndexer  # half a second

    indexer = BIDSLayoutIndexer(validate=False, index_metadata=index_metadata)
    layout = BIDSLayout(bids_dir, derivatives=list(derivatives), validate=False, indexer=indexer)
    try:
        yield layout
    finally:
        layout.session.close()
        layout.connection_manager.engine.dispose()


def filtered_runs(dataset: Dataset, filters: Mapping[str, Any]) -> tuple[Run, ...]:
    """Choose runs by pybids' filters; each value must be there, so that a misspelled one shows."""
    among = {run.bold.name for run in dataset.runs}
    with pybids_layout(dataset.path, index_metadata=False) as layout:
        files = filtered_files(layout, filters, dataset.path, among=among, suffix="bold")
    names = {path.name for path in files}
    return tuple(run for run in dataset.runs if run.bold.name in names)


def filtered_files(
    layout: Any,
    filters: Mapping[str, Any],
    where: Path,
    *,
    among: Collection[str] | None = None,
    **fixed: Any,
) -> tuple[Path, ...]:
    """Choose files of a pybids layout by filters, of some names, with `fixed` entities."""
    searching = {"regex_search": bool(filters.get("regex_search", False))}
    entities = {name: value for name, value in filters.items() if name not in searching}
    known = layout.get_entities()
    for name in entities:
        if name not in known:
            hint = "; pybids calls it subject" if name in ("participant", "sub") else ""
            raise UsageError(
                f"BIDS filter {name}: no entity of pybids{hint}; expected some of "
                f"{', '.join(sorted(known))}, regex_search"
            )

    def matching(wanted: Mapping[str, Any]) -> tuple[Path, ...]:
        query = {**fixed, **{name: _query(value) for name, value in wanted.items()}}
        files = map(Path, layout.get(return_type="file", **query, **searching))
        return tuple(path for path in files if among is None or path.name in among)

    for name, value in entities.items():
        for item in value if isinstance(value, list) else [value]:
            if not matching({name: item}):
                there = sorted(map(str, layout.get(return_type="id", target=name, **fixed)))
                raise UsageError(
                    f"BIDS filter {name}: {json.dumps(item)} matches no run of {where}; "
                    f"there are {', '.join(there) or 'none with this entity'}"
                )
    files = matching(entities)
    if not files:
        raise UsageError(
            f"BIDS filter {json.dumps(dict(filters))}: each value matches runs of {where}, "
            "all of them together match none"
        )
    return files


def _query(value: Any) -> Any:
    """Give a filter's value as pybids takes it, by fMRIPrep's spelling."""
    from bids.layout import Query

    if value is None:
        return Query.NONE
    return Query.ANY if value == "*" else value
