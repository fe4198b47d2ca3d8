"""Ways to spoil a valid file: bytes, lines, cells, numbers, types. All are drawn from one seed."""

import json
import random
from collections.abc import Callable
from typing import Any

HUGE = "9" * 400
"""An integer that no machine type holds."""

NUMBERS = ("-1", "0", "1e999", "-1e999", "nan", "inf", "2147483648", "9223372036854775808", HUGE,
           "0.5", "1e-320", "0x10", "1_000", "+3", "٣")  # fmt: skip
"""Numbers that a reader may not expect."""

TEXTS = ("", " ", "\u202eabc", "\x00", "\ufeff", "é" * 300, "../../x", "/etc/passwd", "a/b", "n/a",
         "'; rm -rf ~; '", "</script>", "=1+1", "\ud83d", "🧠", "\t", "\r\n", "{}", "[]", "null",
         '"', "sub-01", "a" * 5000, "{{ x }}", "%s", "..")  # fmt: skip
"""Texts that a reader may not expect; one is half of a surrogate pair."""

VALUES: tuple[Any, ...] = (None, True, False, 0, -1, 3.5, 10**30, -(10**30), 1e308, float("nan"),
                           float("inf"), [], {}, [[]], [None], {"a": None}, [1, 2, 3],
                           *TEXTS)  # fmt: skip
"""JSON values of every type."""

TOML_VALUES = ("true", "-1", "0", "1e400", "nan", "inf", "''", "'../x'", "[]", "{}", "[[]]", "[1]",
               "9223372036854775807", HUGE, "1979-05-27", "'a b'", '"\\u0000"', "{ a = 1 }",
               "['pathology', 'pathology']", "'''", "{ x = 'everyday' }", "100000",
               "3")  # fmt: skip
"""Right-hand sides for a line of TOML."""

TOML_KEYS = ("x", "'../x'", '"a b"', "tasks", "order")
"""Left-hand sides for a line of TOML."""

Mutation = Callable[[random.Random, bytes], bytes]


def flip(rng: random.Random, data: bytes) -> bytes:
    """Change some bytes."""
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if spoiled:
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
    return bytes(spoiled)


def truncate(rng: random.Random, data: bytes) -> bytes:
    """Cut the end off, sometimes all."""
    return data[: rng.choice((0, 1, rng.randrange(len(data) + 1)))]


def cut_out(rng: random.Random, data: bytes) -> bytes:
    """Take a piece out of the middle."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 200) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    """Say a piece twice."""
    start = rng.randrange(len(data) + 1)
    stop = start + rng.randrange(1, 200)
    return data[:stop] + data[start:]


def insert(rng: random.Random, data: bytes) -> bytes:
    """Put an odd text or number somewhere."""
    start = rng.randrange(len(data) + 1)
    odd = rng.choice((*TEXTS, *NUMBERS)).encode("utf-8", "surrogatepass")
    return data[:start] + odd + data[start:]


def encode_anew(rng: random.Random, data: bytes) -> bytes:
    """Save the text in another encoding."""
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "latin-1", "utf-8-sig", "utf-32-be")), "replace")


def swap_lines(rng: random.Random, data: bytes) -> bytes:
    """Change two lines about, or leave one out."""
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return data
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    if rng.random() < 0.3:
        del lines[first]
    return b"".join(lines)


def toml_line(rng: random.Random, data: bytes) -> bytes:
    """Give one key of a TOML file another value, or another name."""
    lines = data.split(b"\n")
    places = [number for number, line in enumerate(lines) if b"=" in line]
    if not places:
        return data
    place = rng.choice(places)
    key, _, value = lines[place].partition(b"=")
    if rng.random() < 0.2:
        lines[place] = rng.choice(TOML_KEYS).encode() + b"=" + value
    else:
        lines[place] = key + b"= " + rng.choice(TOML_VALUES).encode()
    return b"\n".join(lines)


def cell(rng: random.Random, data: bytes) -> bytes:
    """Change a cell of a table: another text or number, two cells swapped, one too many."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    cells = lines[place].split(b"\t")
    which = rng.randrange(len(cells))
    kind = rng.randrange(4)
    if kind == 0:
        cells.append(cells[which])
    elif kind == 1:
        del cells[which]
    elif kind == 2:
        other = rng.randrange(len(cells))
        cells[which], cells[other] = cells[other], cells[which]
    else:
        odd = rng.choice((*TEXTS, *NUMBERS))
        cells[which] = odd.encode("utf-8", "surrogatepass")
    lines[place] = b"\t".join(cells)
    return b"\n".join(lines)


def json_value(rng: random.Random, data: bytes) -> bytes:
    """Give one place of a JSON file a value of another type, another key, or none."""
    content = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    if not isinstance(content, dict | list) or not content:
        return json.dumps(rng.choice(VALUES)).encode()
    walk(content)
    node, key = rng.choice(places)
    if rng.random() < 0.2:
        del node[key]
    elif isinstance(node, dict) and rng.random() < 0.2:
        node[rng.choice(TEXTS)] = node.pop(key)
    else:
        node[key] = rng.choice(VALUES)
    if rng.random() < 0.05:
        content = rng.choice(VALUES)
    return json.dumps(content).encode()


BYTES: tuple[Mutation, ...] = (flip, truncate, cut_out, repeat, insert)
LINES: tuple[Mutation, ...] = (*BYTES, encode_anew, swap_lines)
BY_KIND: dict[str, tuple[Mutation, ...]] = {
    "toml": (*LINES, toml_line, toml_line, toml_line, toml_line),
    "tsv": (*LINES, cell, cell, cell, cell),
    "json": (*LINES, json_value, json_value, json_value, json_value, json_value),
    "bytes": BYTES,
}
"""What is done to each kind of file; what knows the format comes more often."""


def spoil(rng: random.Random, data: bytes, kind: str) -> bytes:
    """Spoil a file in one to three ways.

    Parameters
    ----------
    rng : random.Random
        Where all draws come from.
    data : bytes
        The valid file.
    kind : {"toml", "tsv", "json", "bytes"}
        Its format.

    Returns
    -------
    bytes
        The spoiled file; now and then still a valid one.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutation = rng.choice(BY_KIND[kind])
        try:
            data = mutation(rng, data)
        except (ValueError, RecursionError):  # no longer JSON after the first mutation
            data = flip(rng, data)
    return data
