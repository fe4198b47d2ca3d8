"""How many workers a machine serves."""

import pytest

from llm2bids.recording.draw import draw_scan
from llm2bids.scan import memory
from llm2bids.scan.memory import available_bytes, choose_workers
from llm2bids.scan.options import ScanOptions


@pytest.fixture(scope="module")
def designs():
    return draw_scan(n_participants=3).designs


def choose(designs, *, device="cpu", n_parameters=134_515_008, worker_bytes=1, **options) -> int:
    return choose_workers(
        ScanOptions(**options),
        designs,
        device=device,
        n_parameters=n_parameters,
        worker_bytes=worker_bytes,
    )


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch):
    monkeypatch.setattr(memory, "cpu_count", lambda: 8)


def test_the_processors_and_no_more_than_there_are_participants(designs):
    assert choose(designs) == 3
    assert choose(designs[:6]) == 1
    assert choose(designs, n_threads=4) == 2
    assert choose(designs, n_workers=2) == 2
    assert choose((), n_workers=2) == 1


def test_a_short_scan_is_done_sooner_by_one(designs):
    assert choose(designs, n_parameters=100_000) == 1
    assert choose(designs, n_parameters=100_000, n_workers=2) == 2


def test_a_gpu_generates_for_one(designs, caplog):
    with caplog.at_level("INFO", "llm2bids"):
        assert choose(designs, device="cuda:0", n_workers=3) == 1
    assert "one worker: all would generate on cuda:0" in caplog.text


def test_memory_serves_fewer_and_a_line_says_so(designs, caplog, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 5_000_000_000)
    with caplog.at_level("WARNING", "llm2bids"):
        assert choose(designs, n_workers=3, worker_bytes=2_000_000_000) == 2
        assert choose(designs, worker_bytes=9_000_000_000) == 1
    assert "2 workers in place of 3: one takes about 2.0 GB, and 5.0 GB of memory" in caplog.text
    assert "1 worker in place of 3" in caplog.text


def test_the_memory_of_this_machine_is_read():
    assert 1e8 < available_bytes() < 1e14
