import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.exceptions import UsageError
from llm2bids.paradigm.seed import derive_generator, derive_seed

PARTS = st.lists(st.text() | st.integers(0, 2**40), max_size=4)


@given(seed=st.integers(0, 2**70), parts=PARTS)
def test_a_seed_is_the_same_again_and_fits_every_generator(seed, parts):
    derived = derive_seed(seed, *parts)
    assert derived == derive_seed(seed, *parts)
    np.random.RandomState(derived)


def test_seeds_of_the_runs_of_a_dataset_differ():
    names = [
        (seed, label, task, run)
        for seed in range(3)
        for label in ("01", "02", "11")
        for task in ("pathology", "archeology")
        for run in (1, 2)
    ]
    assert len({derive_seed(seed, "run", *rest) for seed, *rest in names}) == len(names)


def test_a_seed_does_not_depend_on_the_process():
    code = "from llm2bids.paradigm.seed import derive_seed; print(derive_seed(3, 'bank', 'off'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert printed == {f"{derive_seed(3, 'bank', 'off')}\n"}


def test_a_generator_follows_from_its_seed():
    expected = np.random.Generator(np.random.PCG64(derive_seed(5, "bank"))).integers(1000, size=4)
    assert derive_generator(5, "bank").integers(1000, size=4).tolist() == expected.tolist()


def test_a_negative_seed_is_refused():
    with pytest.raises(UsageError, match=r"seed: found -1, expected an integer of 0 or larger"):
        derive_seed(-1)
