"""Seeds that follow from one number and a few names, the same on every machine and in every run."""

import hashlib

import numpy as np

from llm2bids.exceptions import UsageError


def derive_seed(seed: int, *parts: str | int) -> int:
    """Derive the seed of one thing from the seed of the whole and the names of the thing.

    Python's ``hash`` of a text differs between processes, so that texts enter through SHA-256; the
    mixing is that of :class:`numpy.random.SeedSequence`, which NumPy keeps stable.

    Parameters
    ----------
    seed : int
        The one seed that everything follows from, 0 or larger.
    *parts : str or int
        What the seed is for, e.g. ``"run", "01", "pathology", 1``. An integer is 0 or larger.

    Returns
    -------
    int
        In ``[0, 2**32)``, so that any generator takes it.

    Raises
    ------
    UsageError
        If ``seed`` is negative.

    Examples
    --------
    >>> derive_seed(0, "run", "01", "pathology", 1)
    1357716233
    """
    if seed < 0:
        raise UsageError(f"seed: found {seed}, expected an integer of 0 or larger.")
    entropy = [seed, *(_as_integer(part) for part in parts)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])


def derive_generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Give the random generator of one thing; see :func:`derive_seed`.

    Parameters
    ----------
    seed : int
        The one seed that everything follows from, 0 or larger.
    *parts : str or int
        What the generator is for.

    Returns
    -------
    numpy.random.Generator
        A PCG64 generator, named because NumPy may change its default.

    Examples
    --------
    >>> int(derive_generator(0, "bank", "offtopic").integers(1000))
    141
    """
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *parts)))


def _as_integer(part: str | int) -> int:
    if isinstance(part, int):
        return part
    return int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "big")
