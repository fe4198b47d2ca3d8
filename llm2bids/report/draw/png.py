"""Small palette PNGs as data addresses."""

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt


def palette_png(indices: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8]) -> bytes:
    """Encode an image of palette indices with transparency.

    Parameters
    ----------
    indices : ndarray of uint8, shape (height, width)
        Row of the palette of each pixel, the first row on top.
    palette : ndarray of uint8, shape (n_colours, 4)
        Red, green, blue, opacity.

    Returns
    -------
    bytes
        A PNG file.

    References
    ----------
    W3C, Portable Network Graphics (third edition): https://www.w3.org/TR/png-3/
    """
    height, width = indices.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row starts with its filter, none
    rows[:, 1:] = indices
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette[:, :3].tobytes()),
        (b"tRNS", palette[:, 3].tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def data_address(png: bytes) -> str:
    """Give the ``data:`` address of a PNG."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
