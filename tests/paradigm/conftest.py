"""Small banks and paradigms, with numbers that all differ."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llm2bids.paradigm.task import Paradigm, Prompt, Task

HEADER = "prompt_id\tcondition\ttopic\ttext\n"


@pytest.fixture
def make_bank() -> Callable[[str, int], tuple[Prompt, ...]]:
    def make(condition: str, n_prompts: int) -> tuple[Prompt, ...]:
        return tuple(
            Prompt(
                prompt_id=f"{condition}-{number}",
                condition=condition,
                topic="any",
                text=f"Tell {condition} story {number}.",
            )
            for number in range(n_prompts)
        )

    return make


@pytest.fixture
def make_paradigm() -> Callable[..., Paradigm]:
    """Two tasks, 3 prompts per block, 5 tokens per prompt, 7 prompts for the calibration."""

    def make(**changes: object) -> Paradigm:
        values: dict[str, object] = {
            "name": "small",
            "description": "A small one.",
            "order": "off_on_off",
            "tasks": (
                Task(label="cats", conditions=(("cats", "cats"),)),
                Task(label="dogs", conditions=(("dogs", "dogs"),)),
            ),
            "baseline": "off",
            "prompts_per_block": 3,
            "tokens_per_prompt": 5,
            "calibration_prompts": 7,
        }
        return Paradigm(**(values | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def write_bank(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: str, header: str = HEADER, name: str = "bank.tsv") -> Path:
        file = tmp_path / name
        file.write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")
        return file

    return write
