"""The lock of a dataset, also where the file system has none."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llm2bids.exceptions import DatasetError
from llm2bids.store.commit import DatasetLock

HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
def missing(file, operation):
    raise OSError(errno.ENOSYS, "Function not implemented")
if sys.argv[2] == "without":
    fcntl.flock = missing
from llm2bids.store.commit import DatasetLock
lock = DatasetLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("flock", ["with", "without"])
def test_one_process_holds_it_and_a_dead_one_does_not(flock, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(HOLD), str(tmp_path), flock]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n", first.communicate()[1]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "is being written by another process; wait until it is done" in second.stderr
    first.send_signal(signal.SIGKILL)
    first.communicate()
    third = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert third.stdout.readline() == "held\n"
    third.kill()
    third.communicate()


def test_a_lock_that_cannot_be_had_says_so(tmp_path, monkeypatch):
    """Early versions of filelock raise this where the file system has no flock."""

    def missing(self):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", missing)
    with pytest.raises(DatasetError, match=r"its file system has no locks.*filelock"):
        DatasetLock(tmp_path)


def test_a_folder_that_was_replaced_is_not_protected(tmp_path):
    root = tmp_path / "dataset"
    lock = DatasetLock(root)
    lock.check()
    Path(root).rename(tmp_path / "moved")
    with pytest.raises(DatasetError, match="was removed, moved or replaced"):
        lock.check()
    lock.release()
