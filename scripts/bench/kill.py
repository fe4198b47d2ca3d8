"""Kill `record` and `analyze` at random moments, and look at what is left.

After each kill the dataset has to validate without an error, every run that is there has to be the
one of an uninterrupted scan, byte for byte, and calling the command again has to give the whole
dataset of an uninterrupted scan. `workers` is `record` by two processes, whose parent is killed,
and has to give the bytes of one process. The same for the maps of `analyze`, participant and group
level.

A file system renames one file at a time: a kill within the milliseconds in which the files of a run
take their places leaves some of them there, and a journal of the rest. Such moments are counted by
themselves; the next command finishes what the journal says.

    python scripts/bench/kill.py --kills 30 --seed 0

Each command runs in a process of its own, forked from this one, which has imported everything: so
kills fall into the work and not into the import of torch. `--spawn` starts a new interpreter.
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TASKS = ("pathology", "randomstrings")
PARTICIPANTS = 3
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}


@dataclass
class Tally:
    """What was done and found."""

    kills: Counter = field(default_factory=Counter)
    too_late: int = 0
    states: Counter = field(default_factory=Counter)
    between: int = 0
    invalid: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def describe(self, name: str) -> str:
        """Say it in a few lines."""
        states = ", ".join(f"{n} x {state}" for state, n in sorted(self.states.items()))
        return (
            f"{name}: {sum(self.kills.values())} killed ({dict(self.kills)}), {self.too_late} were "
            f"done before; found: {states}\n"
            f"  between two renames, not valid until the next command: {self.between}\n"
            f"  left a dataset with validator errors or half a run: {len(self.invalid)}; "
            f"going on gave other bytes: {len(self.wrong)}\n"
            + "\n".join(f"  {text}" for text in [*self.invalid, *self.wrong])
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="of each command (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument(
        "--after", type=float, default=0.0,
        help="share of a call's time before which none is killed: its start (0)",
    )  # fmt: skip
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=["KILL"])
    parser.add_argument(
        "--commands", nargs="+", default=["record", "workers", "participant", "group"]
    )
    parser.add_argument("--spawn", action="store_true", help="a new interpreter for each command")
    parser.add_argument("--no-validator", action="store_true", help="leave bids-validator out")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["LLM2BIDS_CACHE"] = str(work / "cache")
        model = tiny_model(work / "tiny")
        record = [
            *("record", "{out}", "--model", str(model), "--participants", str(PARTICIPANTS)),
            *("--task", TASKS[0], "--task", TASKS[1], "--device", "cpu", "-q"),
            *("--prompts-per-block", "8", "--tokens-per-prompt", "4"),
        ]
        whole, maps, groups = work / "dataset", work / "maps", work / "groups"
        analyze = ["analyze", str(whole), "{out}"]
        steps = {
            "record": (record, None, whole),
            "workers": ([*record, "--n-workers", "2"], None, whole),
            "participant": ([*analyze, "participant", "-q"], None, maps),
            "group": ([*analyze, "group", "-q"], maps, groups),
        }
        if not args.spawn:
            load_everything()
        for name, (command, start, reference) in steps.items():
            if name == "workers" and name not in args.commands:
                continue
            timed = work / "two" if name == "workers" else reference
            seconds = run_whole(command, start, timed, spawn=args.spawn)
            if differing := compare(contents(timed), contents(reference)):
                raise SystemExit(f"{name}, uninterrupted: {differing}")
            if name not in args.commands:
                continue
            tally = Tally()
            first = seconds
            while (index := sum(tally.kills.values())) < args.kills:
                kind = args.signals[index % len(args.signals)]
                seconds = one_kill(
                    command, start, reference, work / "killed",
                    rng.uniform(args.after * seconds, seconds), kind, tally,
                    spawn=args.spawn, validated=not args.no_validator,
                )  # fmt: skip
            print(f"{tally.describe(name)}\n  uninterrupted: {first:.1f} s", flush=True)
            failed = failed or bool(tally.invalid or tally.wrong)
    return int(failed)


def load_everything() -> None:
    """Import what the commands import, so that a forked process begins with the work."""
    import nilearn.glm  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    torch.set_num_threads(1)


def tiny_model(folder: Path) -> Path:
    """Save the tests' tiny model."""
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.tiny_models import save_tiny_model

    return save_tiny_model("llama", folder)


def begin(command: list[str], out: Path, *, spawn: bool) -> int:
    """Start a command in a process of its own; give its id."""
    arguments = [part.format(out=out) for part in command]
    if spawn:
        return subprocess.Popen(
            [sys.executable, "-m", "llm2bids.cli.main", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).pid
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        code = 70
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            from llm2bids.cli.main import main as llm2bids

            code = llm2bids(arguments)
        finally:
            os._exit(code)
    return process


def run_whole(command: list[str], start: Path | None, out: Path, *, spawn: bool) -> float:
    """Run a command to its end; give its seconds."""
    if start is not None and not out.exists():
        shutil.copytree(start, out)
    began = time.perf_counter()
    _, status = os.waitpid(begin(command, out, spawn=spawn), 0)
    if status != 0:
        raise SystemExit(f"{command[0]} failed with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began


def one_kill(
    command: list[str],
    start: Path | None,
    reference: Path,
    out: Path,
    seconds: float,
    kind: str,
    tally: Tally,
    *,
    spawn: bool,
    validated: bool,
) -> float:
    """Kill a command after some seconds; look at what is left; go on; compare.

    Gives the seconds of an uninterrupted call by now, if this one was not interrupted in time.
    """
    shutil.rmtree(out, ignore_errors=True)
    if start is not None:
        shutil.copytree(start, out)
    process = begin(command, out, spawn=spawn)
    time.sleep(seconds)
    done, _ = os.waitpid(process, os.WNOHANG)
    if done:
        tally.too_late += 1
        shutil.rmtree(out)
        if start is not None:
            shutil.copytree(start, out)
        return run_whole(command, start, out, spawn=spawn)
    os.kill(process, SIGNALS[kind])
    _, status = os.waitpid(process, 0)
    tally.kills[kind] += 1
    code = os.waitstatus_to_exitcode(status)
    if code not in (-signal.SIGKILL, 130, 0):
        tally.invalid.append(f"SIG{kind} after {seconds:.2f} s: exit code {code}")
    moment = f"SIG{kind} after {seconds:.3f} s"
    tally.states[state(out)] += 1
    wrong = faults(out, reference, command[0], validated)
    if (out / ".llm2bids/commit.json").exists():
        tally.between += 1
        wrong = []
    tally.invalid += [f"{moment}: {text}" for text in wrong]
    again = run_whole(command, start, out, spawn=spawn)
    if differing := compare(contents(out), contents(reference)):
        tally.wrong.append(f"{moment}: {differing}")
    return max(again, seconds)


def state(out: Path) -> str:
    """Say how far it came."""
    images = [path for path in out.rglob("sub-*.nii.gz") if ".llm2bids" not in path.parts]
    runs = sum("_bold.nii.gz" in path.name and "space-" not in path.name for path in images)
    described = (out / "dataset_description.json").exists()
    cut = " (while a run was put in place)" if (out / ".llm2bids/commit.json").exists() else ""
    return f"{runs} runs{cut}" if runs else f"{len(images)} maps" if described else "no dataset"


def faults(out: Path, reference: Path, command: str, validated: bool) -> list[str]:
    """Find half-written files, files that are not the uninterrupted ones, and validator errors."""
    from llm2bids.dataset.validate import validate

    found = []
    for path in out.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts):
            try:
                if path.name.endswith(".gz"):
                    gzip.decompress(path.read_bytes())
                elif path.suffix == ".json":
                    json.loads(path.read_text())
            except (OSError, EOFError, ValueError) as error:
                found.append(f"{path.relative_to(out)}: {error}")
    if command == "record":
        expected = contents(reference)
        of_runs = {name: text for name, text in contents(out).items() if "sub-" in name}
        of_runs = {name: text for name, text in of_runs.items()
                   if not name.endswith(".sha256") and not name.startswith(".")}  # fmt: skip
        found += [f"{name}: other bytes" for name in of_runs if of_runs[name] != expected.get(name)]
    if validated and (out / "dataset_description.json").exists():
        result = validate(out)
        if result.n_errors:
            found.append(result.describe())
    return found


def contents(root: Path) -> dict[str, str]:
    """Hash of every file but the lock."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).as_posix() != ".llm2bids/lock"
    }


def compare(found: dict[str, str], expected: dict[str, str]) -> str:
    """Name what differs."""
    names = sorted(name for name in found.keys() | expected.keys()
                   if found.get(name) != expected.get(name))  # fmt: skip
    return f"{len(names)} files, e.g. {names[0]}" if names else ""


if __name__ == "__main__":
    sys.exit(main())
