"""A full disk, a folder that cannot be written or vanishes, two processes, a killed one."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llm2bids.dataset import write as write_module
from llm2bids.dataset.check import check_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError

HEAD = """
import os, sys
from pathlib import Path
from tests.synthetic import FOSSILS as synthetic
from llm2bids.dataset import write as write_module
from llm2bids.dataset.check import check_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError
recording = synthetic.make_recording(synthetic.make_design(3))
"""


@pytest.fixture
def changed(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


@pytest.fixture
def recording(synthetic):
    return synthetic.make_recording(synthetic.make_design(3))


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".llm2bids" not in path.parts
    }


def in_namespace(shell: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a mount namespace of its own, after a line of shell."""
    command = ["unshare", "--mount", "--map-root-user"]
    if os.geteuid() == 0:
        command = command[:2]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system gives no mount namespace")
    script = f'{shell} && exec "{sys.executable}" -c "$PROGRAM" "$@"'
    environment = {"PROGRAM": HEAD + textwrap.dedent(program), "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(
        [*command, "sh", "-c", script, "sh", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_full_disk_costs_the_run_in_flight_and_no_more(written, tmp_path):
    """A real file system of 8 MB that another program fills while a run is being written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = in_namespace(
        'mount -t tmpfs -o size=8m tmpfs "$1" && cp -a "$2" "$1/dataset"',
        """
        disk, root = Path(sys.argv[1]), Path(sys.argv[1]) / "dataset"
        ballast, check_space = disk / "ballast", write_module.check_space
        def fill(left):
            def filled(*args, **options):
                check_space(*args, **options)
                free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
                ballast.write_bytes(bytes(max(free - left, 0)))
            return filled
        n_full = 0
        for left in (0, 16384, 81920, 163840):
            write_module.check_space = fill(left)
            try:
                with DatasetWriter.open(root) as writer:
                    writer.write_run(recording, t_r=synthetic.t_r)
                break
            except DatasetError as error:
                assert "no space left on the disk while writing sub-03" in str(error), error
                n_full += 1
            ballast.unlink()
            assert check_dataset(root).faults == (), check_dataset(root).describe()
            assert not (root / ".llm2bids/staging").exists()
        ballast.unlink(missing_ok=True)
        write_module.check_space = check_space
        with DatasetWriter.open(root) as writer:
            if not writer.has_run(recording.design):
                writer.write_run(recording, t_r=synthetic.t_r)
        assert check_dataset(root).faults == ()
        print("full", n_full)
        """,
        str(disk),
        str(written),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 2


def test_a_disk_that_is_full_at_any_step_takes_all_files_or_none(tmp_path):
    """A real file system that takes one file more each time, until all of them fit."""
    done = in_namespace(
        'mount -t tmpfs -o size=8m,nr_inodes=1k tmpfs "$1"',
        """
        import subprocess
        from pathlib import PurePosixPath
        from llm2bids.store.commit import staging
        root = Path(sys.argv[1]) / "dataset"
        root.mkdir()
        def present():
            return {path.relative_to(root).as_posix() for path in root.rglob("*")}
        before, n_full, wanted = present(), 0, {"a/b/1.txt", "a/c/2.txt", "3.txt"}
        status = os.statvfs(root)
        for n in range(status.f_files - status.f_ffree, 1000):
            subprocess.run(["mount", "-o", f"remount,nr_inodes={n}", sys.argv[1]], check=True)
            try:
                with staging(root, doing="writing a test") as stage:
                    for file in wanted:
                        stage.text(PurePosixPath(file), file)
                break
            except DatasetError as error:
                assert "no space left on the disk while writing a test" in str(error), error
                assert present() - before <= {".llm2bids"}, present()
                n_full += 1
        there = {name for name in present() if name.endswith(".txt")}
        assert there == wanted, there
        assert not any("staging" in name or "commit" in name for name in present())
        print("full", n_full)
        """,
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 10


@pytest.mark.slow
def test_a_full_disk_under_two_workers(tiny_model_dir, tmp_path):
    """A real file system that takes so many files and no more, whatever space it shows."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = in_namespace(
        'mount -t tmpfs -o size=200m,nr_inodes=20k tmpfs "$1"',
        """
        import hashlib, subprocess
        from llm2bids import record
        disk, root = Path(sys.argv[1]), Path(sys.argv[1]) / "dataset"
        options = dict(
            model=sys.argv[2], n_participants=3, task_labels=("pathology", "archeology"),
            prompts_per_block=2, tokens_per_prompt=3, device="cpu", progress=False,
        )
        def allow(n):
            subprocess.run(["mount", "-o", f"remount,nr_inodes={n}", str(disk)], check=True)
        def used():
            status = os.statvfs(disk)
            return status.f_files - status.f_ffree
        def contents(path):
            return {
                str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in path.rglob("*")
                if file.is_file() and ".llm2bids" not in file.parts
            }
        record(disk / "serial", n_workers=1, **options)
        record(root, prepare_only=True, **options)
        prepared = len(list(root.rglob("*")))
        n_full = 0
        for more in (30, prepared + 40, 2 * prepared + 60, 2 * prepared + 90):
            allow(used() + more)
            try:
                record(root, n_workers=2, **options)
                break
            except DatasetError as error:
                assert "no space left on the disk while" in str(error), error
                assert "Make room and call the command again" in str(error), error
                n_full += 1
            allow("20k")
            found, whole = contents(root), contents(disk / "serial")
            runs = [name for name in found if "sub-" in name and not name.endswith(".sha256")]
            assert all(found[name] == whole[name] for name in runs)
            assert check_dataset(root).faults == (), check_dataset(root).describe()
            assert not list(root.rglob("staging")) and not list(root.rglob("*.part"))
        allow("20k")
        record(root, n_workers=2, **options)
        got, whole = contents(root), contents(disk / "serial")
        assert got == whole, sorted(dict(got.items() ^ whole.items()))
        print("full", n_full)
        """,
        str(disk),
        str(tiny_model_dir("llama")),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 2


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(changed):
    before = files(changed)
    done = in_namespace(
        'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"',
        """
        try:
            DatasetWriter.open(sys.argv[1])
        except DatasetError as error:
            print(error)
        """,
        str(changed),
    )
    assert "cannot be written (Read-only file system)" in done.stdout, done.stderr
    assert "make the folder writable" in done.stdout
    assert files(changed) == before


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_vanishes_between_runs(changed, recording, synthetic, tmp_path, replaced):
    with DatasetWriter.open(changed) as writer:
        changed.rename(tmp_path / "moved")
        if replaced:
            changed.mkdir()
        with pytest.raises(DatasetError, match="was removed, moved or replaced"):
            writer.write_run(recording, t_r=synthetic.t_r)
    assert changed.exists() == replaced
    assert not replaced or not list(changed.rglob("*.nii.gz"))
    assert check_dataset(tmp_path / "moved").faults == ()


def test_a_folder_that_vanishes_within_a_run(changed, recording, synthetic, tmp_path, monkeypatch):
    real = write_module.stage_run

    def vanishing(*args, **options):
        changed.rename(tmp_path / "moved")
        real(*args, **options)

    monkeypatch.setattr(write_module, "stage_run", vanishing)
    with (
        DatasetWriter.open(changed) as writer,
        pytest.raises(DatasetError, match="was removed, moved or replaced"),
    ):
        writer.write_run(recording, t_r=synthetic.t_r)
    assert not list(changed.rglob("*.nii.gz"))
    DatasetWriter.open(tmp_path / "moved").close()
    assert check_dataset(tmp_path / "moved").faults == ()


def test_a_power_cut_finds_all_of_a_run_on_the_disk(changed, recording, synthetic, monkeypatch):
    """Files and folders are forced onto the disk before the step that counts on them."""
    events = []
    replace, unlink = Path.replace, Path.unlink

    def fsync(opened):
        status = os.fstat(opened)
        events.append(("sync", status.st_ino, status.st_size, status.st_mtime_ns))

    def renamed(path, target):
        if Path(target).name == "commit.json":
            events.append(("journal is there", 0, 0, 0))
        return replace(path, target)

    def removed(path, missing_ok=False):
        if path.name == "commit.json":
            events.append(("journal goes", 0, 0, 0))
        return unlink(path, missing_ok=missing_ok)

    before = files(changed)
    with DatasetWriter.open(changed) as writer:
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", renamed)
        monkeypatch.setattr(Path, "unlink", removed)
        writer.write_run(recording, t_r=synthetic.t_r)
    kinds = [event[0] for event in events]
    assert kinds.count("journal is there") == kinds.count("journal goes") == 1
    journal = kinds.index("journal is there")
    done = {event[1:] for event in events[:journal] if event[0] == "sync"}
    new = [changed / name for name, data in files(changed).items() if before.get(name) != data]
    assert len(new) > 12
    for path in new:
        status = path.stat()
        assert (status.st_ino, status.st_size, status.st_mtime_ns) in done, path
    placed = {e[1] for e in events[journal : kinds.index("journal goes")] if e[0] == "sync"}
    for path in new:
        for folder in [path.parent, *path.parent.parents]:
            if folder.is_relative_to(changed):
                assert folder.stat().st_ino in placed, folder


@pytest.mark.slow
def test_the_lock_of_a_living_process_holds_and_of_a_dead_one_does_not(changed):
    program = HEAD + f"w = DatasetWriter.open({str(changed)!r}); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        text=True,
    ) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(DatasetError, match="is being written by another process; wait"):
            DatasetWriter.open(changed)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (changed / ".llm2bids/lock").exists()
        DatasetWriter.open(changed).close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KILL", "TERM"])
def test_killed_at_random_moments_nothing_is_lost(name):
    """A short and seeded run of the harness; it has more to say about many moments."""
    script = Path(__file__).parents[2] / "scripts" / "bench" / "kill.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "2", "--seed", "3", "--signals", name,
         "--commands", "record", "--no-validator"],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "half a run: 0; going on gave other bytes: 0" in done.stdout
