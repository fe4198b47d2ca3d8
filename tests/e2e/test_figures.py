"""What the docs quote is what the benchmarks found."""

import json
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_the_docs_is_the_one_of_the_last_results():
    loader = SourceFileLoader("bench_run", str(ROOT / "scripts" / "bench" / "run"))
    module = module_from_spec(spec_from_loader("bench_run", loader))
    loader.exec_module(module)
    found = json.loads((ROOT / "docs" / "figures" / "performance.json").read_text())
    table = module.table(found)
    assert set(module.BENCHES) <= set(found)
    assert "failed" not in table
    assert (ROOT / "docs" / "figures" / "performance.md").read_text() == table
    assert table in (ROOT / "docs" / "explanation" / "performance.md").read_text()
