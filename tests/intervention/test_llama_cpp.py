"""A control vector in llama.cpp itself: its own loader reads the file, its own model is steered."""

import ctypes
import importlib
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm2bids.intervention.edit import edited, vector_edit
from llm2bids.intervention.export import export_control_vector
from llm2bids.model.embedded import find_gguf
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites
from llm2bids.model.tokenizer import encode
from tests.brought import bring

TEXT = "The committee met on Tuesday to discuss the weather and"


class Value(ctypes.Structure):
    """A C struct of llama.cpp of which only the first field matters; larger than any of them."""

    _fields_ = [("first", ctypes.c_uint32), ("rest", ctypes.c_uint8 * 508)]


class LoadInfo(ctypes.Structure):
    """``common_control_vector_load_info``: a strength and a string.

    The wheel is built with the library of manylinux2014, whose std::string is a pointer to text
    behind which (that is, before it) stand length, capacity and a count of its owners.
    """

    _fields_ = [("strength", ctypes.c_float), ("name", ctypes.c_void_p)]


class Vector(ctypes.Structure):
    """A std::vector of things."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("begin", "end", "capacity")]


class VectorData(ctypes.Structure):
    """``common_control_vector_data``: the width, and the layers from 1 on in one row."""

    _fields_ = [("width", ctypes.c_int32), ("values", Vector)]


@pytest.fixture
def llama_cpp(monkeypatch):
    """The C interface of llama.cpp, out of a wheel that holds all of it."""
    bring(monkeypatch, "xllamacpp==2026.10.11549")
    library = ctypes.CDLL(importlib.import_module("xllamacpp.xllamacpp").__file__)
    pointer, number = ctypes.c_void_p, ctypes.c_int32

    def function(name, result, *arguments):
        taken = getattr(library, name)
        taken.restype, taken.argtypes = result, arguments
        return taken

    read = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"
    return SimpleNamespace(
        model_parameters=function("llama_model_default_params", Value),
        model=function("llama_model_load_from_file", pointer, ctypes.c_char_p, Value),
        context_parameters=function("llama_context_default_params", Value),
        context=function("llama_init_from_model", pointer, pointer, Value),
        memory=function("llama_get_memory", pointer, pointer),
        clear=function("llama_memory_clear", None, pointer, ctypes.c_bool),
        batch=function("llama_batch_get_one", Value, pointer, number),
        decode=function("llama_decode", number, pointer, Value),
        logits=function("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), pointer, number),
        steer=function(
            "llama_set_adapter_cvec", number, pointer, pointer, ctypes.c_size_t, number, number,
            number,
        ),
        read=function(read, VectorData, ctypes.POINTER(Vector)),
    )  # fmt: skip


def vector_file(llama_cpp, path):
    """Let llama.cpp read a file; gives what it would add after layers 1 on, in one row."""
    name = str(path).encode()
    text = struct.pack(f"QQQ{len(name) + 1}s", len(name), len(name), 0, name)
    held = ctypes.create_string_buffer(text)
    info = LoadInfo(1.0, ctypes.addressof(held) + 24)
    begin = ctypes.addressof(info)
    end = begin + ctypes.sizeof(info)
    data = llama_cpp.read(ctypes.byref(Vector(begin, end, end)))
    n_values = (data.values.end - data.values.begin) // 4
    return np.ctypeslib.as_array((ctypes.c_float * n_values).from_address(data.values.begin))


@pytest.mark.slow
@pytest.mark.interop
def test_llama_cpp_is_steered_as_the_hooks_steer(llama_cpp, tmp_path):
    loaded = load_model("embedded", device="cpu")
    n_layers, width, n_words = 30, 576, 49152
    ids = encode(loaded, TEXT)
    model = llama_cpp.model(str(find_gguf()).encode(), llama_cpp.model_parameters())
    context = llama_cpp.context(model, llama_cpp.context_parameters())
    assert model and context

    def theirs():
        llama_cpp.clear(llama_cpp.memory(context), True)
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        batch = llama_cpp.batch(ctypes.addressof(tokens), len(ids))
        assert llama_cpp.decode(context, batch) == 0
        return np.ctypeslib.as_array(llama_cpp.logits(context, -1), (n_words,)).copy()

    def ours():
        with torch.no_grad():
            return loaded.model(torch.tensor([ids])).logits[0, -1].numpy()

    space = SimpleNamespace(
        sites=find_sites(loaded).sites, model_name=loaded.name, label="SmolLM2135M",
        weights_sha256=loaded.weights_sha256, fingerprint=lambda: "0" * 64,
    )  # fmt: skip
    direction = np.random.default_rng(0).standard_normal(width).astype("f4")
    early, edit = (
        vector_edit(space, f"model.layers.{layer}", direction, strength=4) for layer in (10, 11)
    )
    row = vector_file(llama_cpp, export_control_vector(edit, tmp_path / "direction.gguf"))
    assert row.size == 11 * width  # of layers 1 to 11
    intact_theirs, intact_ours = theirs(), ours()
    assert llama_cpp.steer(context, row.ctypes.data, row.size, width, 1, n_layers) == 0
    change_theirs = theirs() - intact_theirs

    def r(added):
        with edited(loaded, added):
            return np.corrcoef(change_theirs, ours() - intact_ours)[0, 1]

    # llama.cpp computes with 8-bit activations
    assert r(edit) > 0.99
    assert r(early) < 0.95
