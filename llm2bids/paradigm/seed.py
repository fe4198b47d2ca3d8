"""Seeds that follow from one number and a few names, the same on every machine and in every run."""

import hashlib

import numpy as np

from llm2bids.exceptions import UsageError


def derive_seed(seed: int, *parts: str | int) -> int:
    """Derive the seed of one thing from the seed of the whole and the names of the thing."""
    # Python's hash of a text differs between processes: texts enter through SHA-256
    if seed < 0:
        raise UsageError(f"seed: found {seed}, expected an integer of 0 or larger.")
    entropy = [seed, *(_as_integer(part) for part in parts)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])


def derive_generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Give the random generator of one thing; see :func:`derive_seed`."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *parts)))


def _as_integer(part: str | int) -> int:
    if isinstance(part, int):
        return part
    return int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "big")
