"""docs/reference/models.md is what its script writes: no value of any architecture is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_table_of_models_is_what_is_measured(tmp_path):
    script = [sys.executable, ROOT / "scripts/models_table.py", tmp_path / "models.md"]
    run = subprocess.run(script, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    written, kept = (
        path.read_text(encoding="utf-8")
        for path in (tmp_path / "models.md", ROOT / "docs/reference/models.md")
    )
    assert " 0 wrong" in written
    assert _facts(written) == _facts(kept)


def test_a_wrong_value_fails_the_script(tmp_path, tiny_model_dir, monkeypatch):
    """The comparison sees what is wrong: a recording of which one site was changed."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import models_table

    from llm2bids.recording import record

    whole = record.record_run

    def spoiled(*args, **options):
        recording = whole(*args, **options)
        recording.values[:, 40] += 1
        return recording

    assert models_table.record_model("llama", tiny_model_dir("llama")).status == "right"
    monkeypatch.setattr(record, "record_run", spoiled)
    row = models_table.record_model("llama", tiny_model_dir("llama"))
    assert row.status == "wrong"
    assert "DIFFERS: model.layers.0.input_layernorm" in row.note


def _facts(text):
    """Cells of all rows, without the size of rounding and the words of a refusal."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [row[:5] + row[6:7] if len(row) > 5 else row[:1] for row in rows]
