"""Inputs that Hypothesis makes up are read, or refused in words; nothing half-written stays.

What differs from ``scripts/fuzz.py``: inputs are built from the formats' own parts (keys, columns,
header fields, options of the parser) rather than spoiled byte by byte, and a failure is shrunk to
the smallest input that shows it. ``LLM2BIDS_EXAMPLES=50`` tries 50 times as many.
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import logging
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from llm2bids.cli import main as cli
from llm2bids.dataset.check import check_dataset
from llm2bids.dataset.read import open_dataset
from llm2bids.exceptions import Llm2bidsError
from llm2bids.inference.inputs import open_inputs
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.runs import run_design
from llm2bids.paradigm.prompts import read_bank
from llm2bids.recording.draw import draw_scan
from llm2bids.scan.answers import read_answers

ROOT = Path(__file__).parents[2]


def trying(examples: int) -> settings:
    """Settings with so many examples, or as many times more as the profile has than 100."""
    n_examples = examples * settings.default.max_examples // 100
    return settings(max_examples=n_examples, suppress_health_check=list(HealthCheck))


def read_or_refused(work: Callable[[], object]) -> bool:
    """Call something; an error of ours with a message is fine, any other exception is not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            work()
        except Llm2bidsError as error:
            assert str(error).strip()
            return False
    return True


# --- parts that all formats share ---

ODD = ("", " ", "n/a", "nan", "1e400", "-0", "../x", "/etc/passwd", "a\tb", "a\nb", '"', "'", "\\",
       "</script>", "=1+1", "$(x)", "\u202eabc", "שלום", "मस्ते", "\ufeffx", "é", "\x7f", "0x10",
       "NaN", "Infinity", "9" * 400, "1e-400", "true", "None", "sub-01", "%s", "{0}")  # fmt: skip
texts = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.from_regex(r"[a-z]{1,8}", fullmatch=True),
)
numbers = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, 0.5, 1e300, -1e-300]),
    st.floats(allow_nan=True, allow_infinity=True),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


# --- paradigm files ---

CONDITIONS = ("off", "cats", "dogs")
BANK = "prompt_id\tcondition\ttopic\ttext\n" + "".join(
    f"{bank}{n}\t{bank}\t\tSay {bank} {n}\n" for bank in CONDITIONS for n in range(30)
)
GOOD = {
    "description": "Off, on, off.",
    "order": "off_on_off",
    "baseline": "off",
    "prompts_per_block": 2,
    "tokens_per_prompt": 3,
    "n_runs": 1,
    "context": "fresh",
    "calibration_prompts": 2,
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.9},
    "tasks": {"cats": "cats", "dogs": {"dogs": "dogs"}},
    "banks": dict.fromkeys(CONDITIONS, "bank.tsv"),
}
names = st.one_of(st.sampled_from([*GOOD, *CONDITIONS, *GOOD["sampling"], "bank.tsv"]), texts)
toml_values = st.recursive(
    st.one_of(
        st.booleans(), numbers, names, st.sampled_from(["off_on_off", "interleaved", "fresh"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=5,
)


def toml(value: object) -> str:
    """Write a value as TOML, tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "nan" if value != value else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007F")
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    assert isinstance(value, dict)
    return "{" + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + "}"


def one_changed(good: dict, values: st.SearchStrategy) -> st.SearchStrategy[dict]:
    """A mapping of which some entries are replaced, added, removed, or changed within."""
    change = st.one_of(
        st.tuples(st.just("put"), st.sampled_from([*good]), values),
        st.tuples(st.just("put"), texts, values),
        st.tuples(st.just("drop"), st.sampled_from([*good]), st.none()),
        st.tuples(st.just("within"), st.sampled_from([*good]), st.tuples(texts, values)),
    )

    def apply(changes: list[tuple]) -> dict:
        changed = json.loads(json.dumps(good))
        for kind, key, value in changes:
            if kind == "put":
                changed[key] = value
            elif kind == "drop":
                changed.pop(key, None)
            elif isinstance(changed.get(key), dict):
                inner = sorted(changed[key])
                changed[key][inner[len(value[0]) % len(inner)] if inner else value[0]] = value[1]
        return changed

    return st.lists(change, min_size=1, max_size=3).map(apply)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hypothesis")
    (folder / "bank.tsv").write_text(BANK)
    return folder


@trying(120)
@given(values=one_changed(GOOD, toml_values), participants=st.integers(-1, 4), shared=st.booleans())
@example(values=GOOD, participants=2, shared=False)
def test_paradigm_files(folder, values, participants, shared):
    path = folder / "own.toml"
    path.write_text("".join(f"{toml(key)} = {toml(value)}\n" for key, value in values.items()))
    work = dict(n_participants=participants, allow_shared_prompts=shared)
    fine = read_or_refused(lambda: draw_scan(path, **work))
    assert fine or (values, participants) != (GOOD, 2)


# --- prompt tables and tables of answers ---


@st.composite
def tables(draw: st.DrawFn, columns: tuple[str, ...]) -> bytes:
    """A table with the right columns or others, quoted well or not at all, in some encoding."""
    header = draw(st.one_of(st.permutations(columns), st.lists(st.one_of(
        st.sampled_from(columns), texts), max_size=6)))  # fmt: skip
    cells = st.one_of(texts, st.sampled_from(CONDITIONS), st.integers(-1, 3).map(str),
                      st.from_regex(r"[a-z]{1,3}[0-9]{1,3}", fullmatch=True))  # fmt: skip
    width = st.just(len(header)) if draw(st.booleans()) else st.integers(0, 6)
    rows = draw(st.lists(width.flatmap(lambda n: st.lists(cells, min_size=n, max_size=n)),
                         max_size=6))  # fmt: skip
    separator = draw(st.sampled_from(["\t", "\t", "\t", ",", " "]))
    if draw(st.booleans()):
        text = io.StringIO()
        csv.writer(text, delimiter=separator, lineterminator="\n").writerows([header, *rows])
        written = text.getvalue()
    else:
        written = "\n".join(separator.join(row) for row in [header, *rows])
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return written.encode(encoding, errors="replace")


@trying(150)
@given(data=tables(("prompt_id", "condition", "topic", "text")))
@example(data=BANK.encode())
def test_prompt_tables(folder, data):
    path = folder / "prompts.tsv"
    path.write_bytes(data)
    assert read_or_refused(lambda: read_bank(path)) or data != BANK.encode()


@pytest.fixture(scope="module")
def design(folder):
    (folder / "fine.toml").write_text("".join(f"{k} = {toml(v)}\n" for k, v in GOOD.items()))
    return draw_scan(folder / "fine.toml", n_participants=1).designs[0]


@trying(150)
@given(data=st.one_of(tables(("prompt_id", "answer")),
                      tables(("prompt_id", "position", "token_id"))))  # fmt: skip
def test_tables_of_answers(folder, design, data):
    path = folder / "answers.tsv"
    path.write_bytes(data)
    read_or_refused(lambda: read_answers(path).of_run(design))


# --- sidecars, tables and the unit table of a dataset ---


@pytest.fixture(scope="module")
def dataset(synthetic, tmp_path_factory) -> Path:
    return synthetic.write_dataset(tmp_path_factory.mktemp("dataset") / "dataset")


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    """Put other bytes into a file (a new one: others may be links to the old), then put it back."""
    kept = path.with_name(".kept")
    path.rename(kept)
    try:
        path.write_bytes(data)
        yield
    finally:
        kept.replace(path)


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file() and path.name != ".kept"}


def read_all(root: Path) -> None:
    """Read what a dataset has, for the statistics too."""
    opened = open_dataset(root)
    opened.describe()
    run = opened.runs[0]
    opened.values(run)
    opened.token_table(run)
    opened.events(run)
    opened.confounds(run)
    opened.t_r(run)
    inputs = open_inputs(root)
    data = inputs.load(inputs.runs[0])
    for unit in ("prompt", "token"):
        run_design(data, AnalysisOptions(unit_of_analysis=unit))


SIDECARS = (
    "code/llm2bids_settings.json",
    "sub-01/func/sub-01_task-fossils_bold.json",
    "derivatives/llm2bids/sub-01/func/sub-01_task-fossils_space-Tiny_desc-preproc_bold.json",
    "derivatives/llm2bids/tpl-Tiny/tpl-Tiny_space.json",
    "dataset_description.json",
)


@trying(6)
@given(data=st.data())
def test_sidecars(dataset, data):
    place = data.draw(st.sampled_from(SIDECARS))
    good = json.loads((dataset / place).read_text())
    changed = data.draw(st.one_of(one_changed(good, json_values), json_values))
    before = files(dataset)
    with replaced(dataset / place, json.dumps(changed).encode()):
        read_or_refused(lambda: read_all(dataset))
        read_or_refused(lambda: check_dataset(dataset))
    assert files(dataset) == before


TABLES = (
    "participants.tsv",
    "stimuli/fossils.tsv",
    "sub-01/func/sub-01_task-fossils_events.tsv",
    "derivatives/llm2bids/sub-01/func/sub-01_task-fossils_desc-confounds_timeseries.tsv",
)
UNITS = "derivatives/llm2bids/tpl-Tiny/tpl-Tiny_units.tsv.gz"


def change_table(table: pd.DataFrame, kind: str, place: int, name: str, value) -> pd.DataFrame:
    """Change one thing about a table; nothing where it does not apply."""
    there = place % max(len(table), 1)
    changes: dict[str, Callable[[], pd.DataFrame]] = {
        "reverse": lambda: table.iloc[::-1],
        "drop rows": lambda: table.iloc[:there],
        "double": lambda: pd.concat([table, table.iloc[there:]]),
        "cell": lambda: table.assign(**{name: [*table[name][:there], value,
                                               *table[name][there + 1 :]][: len(table)]}),
        "column": lambda: table.assign(**{name: value}),
        "shift": lambda: table.assign(**{name: np.roll(table[name].to_numpy(), 1)}),
        "drop column": lambda: table.drop(columns=name),
        "rename": lambda: table.rename(columns={name: value}),
    }  # fmt: skip
    return changes[kind]()


def changed_table(good: pd.DataFrame) -> st.SearchStrategy[pd.DataFrame]:
    """A table with cells, rows and columns changed, shifted, doubled or left out."""
    row = st.integers(0, max(len(good) - 1, 0))
    cell = st.one_of(texts, numbers.map(str), st.integers(0, 40).map(str))
    kinds = ("reverse", "drop rows", "double", "cell", "cell", "column", "shift", "drop column",
             "rename")  # fmt: skip
    change = st.tuples(st.sampled_from(kinds), row, st.sampled_from(list(good)), cell)

    def apply(changes: list[tuple[str, int, str, str]]) -> pd.DataFrame:
        table = good
        for kind, place, name, value in changes:
            if list(table).count(name) == 1:
                table = change_table(table, kind, place, name, value)
        return table

    return st.lists(change, min_size=1, max_size=3).map(apply)


def read_text_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=object, keep_default_na=False)


def as_tsv(table: pd.DataFrame, *, quoted: bool) -> bytes:
    if quoted:
        return table.to_csv(sep="\t", index=False).encode()
    rows = [list(table), *table.astype(str).to_numpy().tolist()]
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()


@trying(6)
@given(data=st.data())
def test_tables_of_a_dataset(dataset, data):
    place = data.draw(st.sampled_from([name for name in TABLES if (dataset / name).exists()]))
    changed = data.draw(changed_table(read_text_table(dataset / place)))
    quoted = data.draw(st.booleans())
    before = files(dataset)
    with replaced(dataset / place, as_tsv(changed, quoted=quoted)):
        read_or_refused(lambda: read_all(dataset))
        read_or_refused(lambda: check_dataset(dataset))
    assert files(dataset) == before


@trying(60)
@given(data=st.data())
def test_unit_tables(dataset, data):
    changed = data.draw(changed_table(read_text_table(dataset / UNITS)))
    quoted = data.draw(st.booleans())
    with replaced(dataset / UNITS, gzip.compress(as_tsv(changed, quoted=quoted), 1)):
        read_or_refused(lambda: open_dataset(dataset))


# --- maps ---

HEADER = ("sizeof_hdr", "dim", "pixdim", "datatype", "bitpix", "vox_offset", "scl_slope",
          "scl_inter", "qform_code", "sform_code", "srow_x", "quatern_b", "magic", "intent_code",
          "descrip", "cal_max", "xyzt_units")  # fmt: skip


grids = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


@st.composite
def maps(draw: st.DrawFn, shape: tuple[int, ...], affine: np.ndarray) -> bytes:
    """A map: any grid, type and affine, values that may not be finite, header fields that lie."""
    grid = draw(st.one_of(st.just(shape), st.just((*shape, 1)), st.just((*shape, 2)), grids))
    dtype = draw(st.sampled_from(["float32", "float64", "int16", "uint8", "complex64", "int64"]))
    values = draw(st.lists(numbers, min_size=1, max_size=4))
    matrix = affine.copy()
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, 2)), draw(st.integers(0, 3))
        matrix[place] = draw(st.sampled_from([0.5, -2.0, 1e3, 0.1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-3:  # nibabel makes none of these
            matrix = affine
        image = nib.Nifti1Image(
            np.resize(values, grid).astype(float).astype(dtype), matrix, dtype=dtype
        )
        raw = bytearray(image.to_bytes())
    for _ in range(draw(st.integers(0, 2))):
        field = draw(st.sampled_from(HEADER))
        dt, offset = image.header.template_dtype.fields[field][:2]
        data = draw(st.binary(min_size=dt.itemsize, max_size=dt.itemsize))
        raw[offset : offset + dt.itemsize] = data
    stop = draw(st.one_of(st.just(len(raw)), st.just(len(raw)), st.integers(0, len(raw))))
    return bytes(raw[:stop]) + draw(st.one_of(st.just(b""), st.binary(max_size=9)))


def called(argv: list[str]) -> tuple[int, str]:
    """Call the command line; give its exit code and what it said on the error stream."""
    said, before = io.StringIO(), signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings(), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
            try:
                code = cli.main(argv)
            except SystemExit as stopped:  # argparse
                code = stopped.code
            finally:
                signal.signal(signal.SIGTERM, before)
                logging.basicConfig(level=logging.WARNING, force=True)
    return code, said.getvalue()


@trying(16)
@given(data=st.data(), compressed=st.booleans())
def test_maps(dataset, folder, data, compressed):
    space = open_dataset(dataset).space
    raw = data.draw(maps(space.shape, space.affine))
    path = folder / ("z.nii.gz" if compressed else "z.nii")
    path.write_bytes(gzip.compress(raw, 1) if compressed else raw)
    command = data.draw(st.sampled_from(["locate", "locate", "resample"]))
    out = folder / ("out.tsv" if command == "locate" else "out.nii.gz")
    out.unlink(missing_ok=True)
    more = ["--threshold", "1"] if command == "locate" else ["--to", "index"]
    code, said = called(
        [command, str(path), "--dataset", str(dataset), "-o", str(out), "-q", *more]
    )
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    assert out.exists() == (code == 0), said
    assert code == 0 or "error: " in said


# --- command lines ---

LEFT_OUT = {"help", "progress", "debug"}
"""Options that are not drawn: ``--debug`` shows the traceback, which is what it is for."""

SLOW = {"demo", "null", "validate"}
"""Commands that load a model of 135 million parameters, or start a validator: not tried here."""

words = st.one_of(
    st.sampled_from(["-1", "0", "1", "2", "3", "0.5", "nan", "inf", "-inf", "1e400", "9" * 30, "x",
                     "cpu", "float32", "bfloat16", "all", "residual", "fossils", "votes", "01",
                     "prompt", "none", "fossils - votes", "spm", "index", "random"]),
    texts.filter(lambda text: "\0" not in text),
)  # fmt: skip


def commands() -> dict[str, argparse.ArgumentParser]:
    found = next(
        action for action in cli.build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )  # fmt: skip
    return {name: one for name, one in found.choices.items() if name not in SLOW}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with some of its options; values are good, odd, of other types, or files."""
    parsers = commands()
    name = draw(st.sampled_from(sorted(parsers)))
    places = st.sampled_from(["{dataset}", "{dataset}", "{out}", "{map}", "{model}", "{toml}",
                              "{missing}"])  # fmt: skip
    line = [name]
    actions = [one for one in parsers[name]._actions if one.dest not in LEFT_OUT]
    for action in actions:
        if action.option_strings and not action.required and draw(st.integers(0, 5)) != 0:
            continue
        if action.option_strings:
            line.append(draw(st.sampled_from(action.option_strings)))
        if action.nargs == 0:
            continue
        values = [words, places]
        if action.choices:
            values += [st.sampled_from([str(one) for one in action.choices])] * 3
        if action.type is Path:
            values += [places] * 3
        line.append(draw(st.one_of(values)))
    return [*line, *draw(st.lists(words, max_size=1))] if draw(st.integers(0, 9)) == 0 else line


@pytest.fixture(scope="module")
def places(dataset, tiny_model_dir, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("places")
    space = open_dataset(dataset).space
    values = np.random.default_rng(0).normal(0, 2, space.n_units).astype(np.float32)
    nib.save(nib.Nifti1Image(space.to_grid(values), space.affine), folder / "z.nii.gz")
    (folder / "bank.tsv").write_text(BANK)
    (folder / "own.toml").write_text("".join(f"{k} = {toml(v)}\n" for k, v in GOOD.items()))
    return {
        "map": str(folder / "z.nii.gz"),
        "model": str(tiny_model_dir("llama")),
        "toml": str(folder / "own.toml"),
        "missing": str(folder / "no" / "where"),
    }


@trying(12)
@given(line=command_lines())
def test_command_lines(dataset, places, monkeypatch_module, line):
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        copy = Path(shutil.copytree(dataset, here / "dataset"))
        known = {**places, "dataset": str(copy), "out": str(here / "out")}
        argv = [word.format(**known) if word.startswith("{") and word.endswith("}") and
                word[1:-1] in known else word for word in line]  # fmt: skip
        if "--model" in cli_options(line[0]):  # never the embedded model, which takes its time
            argv += ["--model", known["model"], "--paradigm", known["toml"]][: 2 + 2 * (
                "--paradigm" in cli_options(line[0]))]  # fmt: skip
        before, working = files(here), Path.cwd()
        os.chdir(here)
        try:
            code, said = called([*argv, "-q"])
        finally:
            os.chdir(working)
        assert code in (0, 1, 2), (argv, code, said)
        assert "Traceback" not in said, (argv, said)
        assert code == 0 or ": error: " in said or ": failed: " in said or line[0] == "check", said
        left = [path for path in here.rglob("*") if path.name.endswith(".part")
                or path.name == "staging"]  # fmt: skip
        assert not left, (argv, left)
        if code == 2:
            new = {path for path in files(here) - before if ".llm2bids" not in path.parts}
            assert not new, (argv, new)
        with contextlib.suppress(Llm2bidsError):
            assume(not (here / "out").is_dir() or open_dataset(here / "out"))


def cli_options(name: str) -> set[str]:
    return set(commands()[name]._option_string_actions)


@pytest.fixture(scope="module")
def monkeypatch_module(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def test_every_command_is_tried_or_named():
    assert set(commands()) | SLOW == set(cli.COMMANDS)
