"""Given answers for a replay: a table of texts or tokens, by prompt."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from llm2bids.exceptions import DatasetError
from llm2bids.paradigm.design import RunDesign
from llm2bids.store.files import data_files, inside
from llm2bids.store.tables import whole_numbers


@dataclass(frozen=True, kw_only=True)
class GivenAnswers:
    """An answer to each prompt."""

    # text, or token ids, of the answer to each prompt
    by_prompt: Mapping[str, str | tuple[int, ...]]
    sha256: str
    source: str

    def of_run(self, design: RunDesign) -> list[str] | list[Sequence[int]]:
        """Give the answers to the trials of a run, in order."""
        ids = [trial.prompt.prompt_id for trial in design.trials]
        missing = [prompt_id for prompt_id in ids if prompt_id not in self.by_prompt]
        if missing:
            raise DatasetError(
                f"{self.source}: no answer to {len(missing)} of the {len(ids)} prompts of "
                f"sub-{design.participant_label} task-{design.task}, among them {missing[0]}; add "
                "them, or replay fewer participants or tasks"
            )
        return [self.by_prompt[prompt_id] for prompt_id in ids]  # type: ignore[return-value]


def read_answers(path: Path) -> GivenAnswers:
    """Read a table of answers."""
    files = [path]
    if path.is_dir():
        transcripts = data_files(path, "derivatives/llm2bids/sub-*/**/func/*_desc-transcript_*.tsv")
        files = [inside(path, file) for file in transcripts]
        if not files:
            raise DatasetError(f"{path}: no transcripts in this folder; expected a dataset of ours")
    by_prompt: dict[str, str | tuple[int, ...]] = {}
    digest = hashlib.sha256()
    for file in files:
        digest.update(_read_bytes(file))
        for prompt_id, answer in _answers(file).items():
            if by_prompt.setdefault(prompt_id, answer) != answer:
                raise DatasetError(
                    f"{file}: prompt {prompt_id} has two different answers; a replay needs one for "
                    "each prompt"
                )
    return GivenAnswers(by_prompt=by_prompt, sha256=digest.hexdigest(), source=str(path))


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{file}: cannot be read ({error.strerror}); expected a TSV of answers"
        ) from None


def _answers(file: Path) -> dict[str, str | tuple[int, ...]]:
    try:
        table = pd.read_csv(
            file,
            sep="\t",
            dtype={"prompt_id": str, "answer": str},
            na_values=["n/a"],
            keep_default_na=False,
        )
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise DatasetError(f"{file}: not a tab-separated table in UTF-8 ({error})") from None
    if "prompt_id" in table and table["prompt_id"].isna().any():
        raise DatasetError(f"{file}: a row has no prompt_id; name the prompt that it answers")
    if {"prompt_id", "position", "token_id"} <= set(table.columns):
        for name in ("position", "token_id"):
            table[name] = whole_numbers(table, name, where=file)
        ordered = table.sort_values(["prompt_id", "position"], kind="stable")
        grouped = ordered.groupby("prompt_id")["token_id"]
        # A token is fed at the place that its position names, so none may be missing before it.
        wrong = ordered[ordered["position"] != grouped.cumcount()]
        if len(wrong):
            prompt_id, position = wrong.iloc[0][["prompt_id", "position"]]
            expected = int(grouped.cumcount()[wrong.index[0]])
            raise DatasetError(
                f"{file}: prompt {prompt_id} has a token at position {position} where "
                f"{expected} comes next; expected the whole answer, each position once from 0"
            )
        return {str(prompt_id): tuple(map(int, tokens)) for prompt_id, tokens in grouped}
    if {"prompt_id", "answer"} <= set(table.columns):
        twice = table.loc[table["prompt_id"].duplicated(), "prompt_id"]
        if len(twice):
            raise DatasetError(f"{file}: prompt {twice.iloc[0]} is answered twice")
        empty = table.loc[table["answer"].isna() | (table["answer"] == ""), "prompt_id"]
        if len(empty):
            raise DatasetError(f"{file}: the answer to prompt {empty.iloc[0]} is empty")
        return dict(zip(table["prompt_id"], table["answer"], strict=True))
    raise DatasetError(
        f"{file}: found the columns {', '.join(map(str, table.columns))}; expected prompt_id and "
        "answer, or prompt_id, position and token_id"
    )
