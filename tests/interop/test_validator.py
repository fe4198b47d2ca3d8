"""bids-validator-deno on the raw dataset and on the derivative, each as a dataset of its own."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from llm2bids.dataset.validate import find_validator, validate

pytestmark = pytest.mark.interop

SILENCED = {
    *("SIDECAR_KEY_RECOMMENDED", "TOO_FEW_AUTHORS", "TSV_ADDITIONAL_COLUMNS_UNDEFINED"),
}


@pytest.fixture(scope="module")
def result(written):
    return validate(written)


def test_no_error_and_no_warning(result):
    assert (result.n_errors, result.n_warnings) == (0, 0), result.describe()
    assert [name for name, _ in result.n_files] == ["raw", "derivative"]
    assert all(n_files > 20 for _, n_files in result.n_files)
    assert "0 errors, 0 warnings" in result.describe()


@pytest.mark.parametrize("folder", ["", "derivatives/llm2bids"])
def test_without_our_configuration_only_the_named_warnings_are_left(written, folder):
    done = subprocess.run(
        [find_validator(), str(written / folder), "--format", "json", "--max-rows", "-1"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    codes = {(one["severity"], one["code"]) for one in report["issues"]["issues"]}
    assert {code for severity, code in codes if severity != "ignore"} <= SILENCED
    assert "error" not in {severity for severity, _ in codes}
    config = json.loads((written / "code/bids-validator-config.json").read_text())
    assert {one["code"] for one in config["ignore"]} == SILENCED == set(config["reasons"])


def test_it_finds_what_is_wrong(written, tmp_path):
    root = Path(shutil.copytree(written, tmp_path / "copy"))
    (root / "sub-01/func/sub-01_task-off_on_bold.json").write_text("{}")
    (root / "derivatives/llm2bids/dataset_description.json").write_text('{"Name": "a"}')
    result = validate(root)
    assert result.n_errors >= 2
    assert {issue.dataset for issue in result.issues} == {"raw", "derivative"}
    assert "error" in result.describe()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"compress": False, "volume_dtype": "float32"}, {"hrf_series": "spm"}]
)
def test_other_ways_of_storing_are_valid_too(synthetic, tmp_path, changes):
    root = synthetic.write_dataset(tmp_path / "other", **changes)
    result = validate(root)
    assert (result.n_errors, result.n_warnings) == (0, 0), result.describe()


@pytest.mark.slow
def test_a_single_unfinished_participant_is_valid(synthetic, tmp_path):
    with synthetic.create(tmp_path / "one") as writer:
        writer.write_run(synthetic.make_recording(synthetic.make_design(1)), t_r=synthetic.t_r)
    result = validate(tmp_path / "one")
    assert (result.n_errors, result.n_warnings) == (0, 0), result.describe()


@pytest.mark.slow
def test_a_dataset_without_runs_is_valid(synthetic, tmp_path):
    """What a kill before the first run leaves."""
    synthetic.create(tmp_path / "none").close()
    result = validate(tmp_path / "none")
    assert result.n_errors == 0, result.describe()
    assert {issue.code for issue in result.issues} == {"SUBJECT_FOLDERS"}


@pytest.mark.slow
def test_run_indices_are_valid(synthetic, tmp_path):
    with synthetic.create(tmp_path / "runs") as writer:
        for run in (1, 2):
            design = synthetic.make_design(1, "votes", run)
            writer.write_run(synthetic.make_recording(design), t_r=synthetic.t_r)
        writer.finish_participant("01")
    result = validate(tmp_path / "runs")
    assert (result.n_errors, result.n_warnings) == (0, 0), result.describe()
