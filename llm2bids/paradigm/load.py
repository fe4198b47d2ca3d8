"""Read a paradigm: a shipped one by its name, or the user's own TOML file."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import cast, get_args

from llm2bids.exceptions import ParadigmError
from llm2bids.paradigm.prompts import BANKS_FOLDER
from llm2bids.paradigm.table import Table, read_text, suggest
from llm2bids.paradigm.task import Context, Order, Paradigm, Sampling, Task

# Folder of the shipped paradigms, one file ``<name>.toml`` each.
PARADIGMS_FOLDER = Path(__file__).parent / "paradigms"

# Most runs of a task for each participant.
MOST_RUNS = 1000

_KEYS = [
    field.name
    for field in fields(Paradigm)
    if field.name not in ("name", "localizer_prompts", "source")
]


def shipped_paradigms() -> tuple[str, ...]:
    """Name the paradigms that come with the package."""
    return tuple(sorted(file.stem for file in PARADIGMS_FOLDER.glob("*.toml")))


def load_paradigm(name_or_path: str | Path, *, with_banks: bool = True) -> Paradigm:
    """Read a paradigm and check all of it."""
    path = _find(name_or_path)
    source = read_text(path, expected="a paradigm file (TOML)")
    try:
        values = tomllib.loads(source)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ParadigmError(
            f"{path}: is not TOML: {error}. See docs/reference/paradigm.md for an example."
        ) from None
    top = Table(path=path, prefix="", values=values)
    top.check_keys(_KEYS)
    order = cast(Order, top.choice("order", get_args(Order)))
    baseline = top.label("baseline", top.text("baseline"))
    tasks = _read_tasks(top.table("tasks", required=True), order)
    shown = [condition for task in tasks for _, condition in task.conditions]
    conditions = tuple(dict.fromkeys([*shown, baseline]))
    return Paradigm(
        name=path.stem,
        description=top.text("description", ""),
        order=order,
        tasks=tasks,
        baseline=baseline,
        prompts_per_block=top.integer("prompts_per_block", minimum=1),
        tokens_per_prompt=top.integer("tokens_per_prompt", minimum=1),
        n_runs=top.integer("n_runs", Paradigm.n_runs, minimum=1, maximum=MOST_RUNS),
        context=cast(Context, top.choice("context", get_args(Context), Paradigm.context)),
        chat_template=top.boolean("chat_template", Paradigm.chat_template),
        system=top.text("system", Paradigm.system),
        sampling=_read_sampling(top.table("sampling")),
        calibration_prompts=top.integer(
            "calibration_prompts", Paradigm.calibration_prompts, minimum=1
        ),
        banks=_read_banks(top.table("banks"), conditions) if with_banks else (),
        source=source,
    )


def _find(name_or_path: str | Path) -> Path:
    shipped = shipped_paradigms()
    if str(name_or_path) in shipped:
        return PARADIGMS_FOLDER / f"{name_or_path}.toml"
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ParadigmError(f"{path}: found a folder, expected a paradigm file (TOML).")
    if path.name == str(name_or_path) and path.suffix != ".toml":
        raise ParadigmError(
            f"paradigm '{name_or_path}': no such shipped paradigm or file. "
            f"{suggest(str(name_or_path), shipped)} Or name a TOML file."
        )
    raise ParadigmError(
        f"{path}: no such file, expected a paradigm file (TOML) or one of: {', '.join(shipped)}."
    )


def _read_sampling(table: Table) -> Sampling:
    table.check_keys(field.name for field in fields(Sampling))
    return Sampling(
        do_sample=table.boolean("do_sample", Sampling.do_sample),
        temperature=table.number("temperature", Sampling.temperature, above=0.0, maximum=math.inf),
        top_k=table.integer("top_k", Sampling.top_k, minimum=0),
        top_p=table.number("top_p", Sampling.top_p, above=0.0, maximum=1.0),
    )


def _read_tasks(table: Table, order: Order) -> tuple[Task, ...]:
    tasks: list[Task] = []
    task_keys: dict[str, str] = {}
    trial_type_keys: dict[str, str] = {}
    for key, value in table.values.items():
        task = Task(label=table.label(key, key), conditions=_read_conditions(table, key, value))
        other = task_keys.setdefault(key.casefold(), key)
        if other != key:
            raise table.error(
                key, f"the same task label as '{other}' but for case. Rename one of the two."
            )
        if order == "off_on_off" and len(task.conditions) != 1:
            raise table.error(
                key,
                f"found {len(task.conditions)} conditions, expected 1 with order = 'off_on_off'. "
                f"Make each condition a task, or set order = 'multi_task'.",
            )
        for trial_type, _ in task.conditions:
            other = trial_type_keys.setdefault(trial_type, key)
            if other != key and order != "story":
                raise table.error(
                    key,
                    f"trial type '{trial_type}' is also that of task '{other}', expected distinct "
                    f"ones, or tools cannot contrast the tasks. Write {key} = {{ newname = "
                    f"'{dict(task.conditions)[trial_type]}' }}.",
                )
        tasks.append(task)
    if not tasks:
        raise ParadigmError(
            f"{table.path}: key 'tasks': found no task, expected one or more, such as "
            f"pathology = 'pathology'."
        )
    return tuple(tasks)


def _read_conditions(table: Table, key: str, value: object) -> tuple[tuple[str, str], ...]:
    """Read the three ways to write a task: one bank, a list of banks, trial types with banks."""
    pairs: list[tuple[str, object]]
    if isinstance(value, str):
        pairs = [(key, value)]
    elif isinstance(value, list):
        pairs = [(name, name) for name in value]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        raise table.error(
            key,
            f"found {value!r}, expected a bank ('pathology'), a list of banks, or a table "
            f"{{ trialtype = 'bank' }}.",
        )
    if not pairs:
        raise table.error(key, "found no condition, expected one or more banks.")
    conditions = tuple((table.label(key, name), table.label(key, bank)) for name, bank in pairs)
    if len(dict(conditions)) < len(conditions):
        raise table.error(key, f"found a bank twice in {value!r}, expected each once.")
    return conditions


def _read_banks(table: Table, conditions: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Pair each condition with its file: that under ``[banks]``, else the shipped one."""
    table.check_keys(conditions)
    shipped = {file.stem for file in BANKS_FOLDER.glob("*.tsv")}
    banks: list[tuple[str, str]] = []
    for condition in conditions:
        if condition in table.values:
            file = table.path.parent.absolute() / Path(table.text(condition)).expanduser()
            if not file.is_file():
                raise table.error(
                    condition,
                    f"no file {file}, expected a prompt bank, named relative to the paradigm file.",
                )
            banks.append((condition, str(file)))
        elif condition in shipped:
            banks.append((condition, f"{condition}.tsv"))
        else:
            raise table.error(
                condition,
                f"missing: no shipped bank is called '{condition}'. {suggest(condition, shipped)} "
                f"Or name your own: {condition} = 'FILE.tsv' under [banks].",
            )
    return tuple(banks)
