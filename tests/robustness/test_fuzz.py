"""Spoiled inputs are read or refused in words: a short version of ``scripts/fuzz.py``."""

import fuzz
import pytest

INPUTS = {"paradigm": 60, "bank": 60, "answers": 30, "image": 30, "units": 20, "settings": 6,
          "sidecars": 6, "argv": 40}  # fmt: skip


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield fuzz.Seeds(tmp_path_factory.mktemp("seeds"))


def test_every_target_is_tried():
    assert set(INPUTS) == set(fuzz.TARGETS)


@pytest.mark.parametrize("target", INPUTS)
def test_spoiled_inputs_are_read_or_refused(seeds, target, tmp_path):
    counts = fuzz.fuzz(seeds, target, range(INPUTS[target]), 99, tmp_path)
    assert counts["findings"] == 0
    assert counts["refused"] > 0
    assert counts["accepted"] + counts["refused"] == INPUTS[target]


def test_a_fault_is_found(seeds, monkeypatch, tmp_path):
    """The fuzzer reports what is neither read nor refused."""

    def broken(seeds, rng, folder):
        raise KeyError("x")

    monkeypatch.setitem(fuzz.TARGETS, "broken", broken)
    assert fuzz.fuzz(seeds, "broken", range(3), 0, tmp_path)["findings"] == 3


def test_the_same_seed_spoils_the_same_bytes():
    data = (fuzz.ROOT / "llm2bids/paradigm/paradigms/off_on_off.toml").read_bytes()
    random = fuzz.random.Random
    spoiled = [fuzz.mutations.spoil(random(seed), data, "toml") for seed in (1, 1, 2)]
    assert spoiled[0] == spoiled[1] != spoiled[2]
