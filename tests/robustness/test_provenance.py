"""A dataset says where it comes from, and that is true; batches change nothing but rounding."""

import hashlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from llm2bids import __version__, open_dataset, record
from llm2bids.paradigm.design import paradigm_hash
from llm2bids.paradigm.load import load_paradigm
from llm2bids.paradigm.prompts import load_banks

SEED = 5
TOML = """order = "off_on_off"
baseline = "off"
prompts_per_block = 3
tokens_per_prompt = 4
calibration_prompts = 4
[tasks]
cats = "cats"
[banks]
cats = "bank.tsv"
off = "bank.tsv"
"""


@pytest.fixture(scope="module")
def paradigm(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("paradigm")
    rows = [f"{bank}{n}\t{bank}\t\tSay {bank} {n} times" for bank in ("cats", "off")
            for n in range(20)]  # fmt: skip
    (folder / "bank.tsv").write_text("\n".join(["prompt_id\tcondition\ttopic\ttext", *rows, ""]))
    (folder / "own.toml").write_text(TOML)
    return folder / "own.toml"


@pytest.fixture(scope="module")
def datasets(paradigm, tiny_model_dir, tmp_path_factory):
    """The same scan with its nine prompts in batches of 9, 4 and 1."""
    folder = tmp_path_factory.mktemp("batches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2BIDS_CACHE", str(folder / "cache"))
        return {
            size: record(folder / str(size), model=tiny_model_dir("llama"), paradigm=paradigm,
                         n_participants=1, seed=SEED, batch_size=size, device="cpu",
                         progress=False)
            for size in (9, 4, 1)
        }  # fmt: skip


@pytest.fixture(scope="module")
def known(paradigm, tiny_model_dir):
    """The same facts from the sources themselves."""
    loaded = load_paradigm(paradigm)
    weights = tiny_model_dir("llama") / "model.safetensors"
    return {
        "WeightsSHA256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "ParadigmSHA256": paradigm_hash(loaded, load_banks(loaded)),
        "ModelName": "tiny-llama",
        "ComputeDataType": "float32",
        "Device": "cpu",
    }


def test_the_description_says_where_a_dataset_comes_from(datasets, known):
    dataset = datasets[9]
    for folder in (dataset.path, dataset.derivative):
        description = json.loads((folder / "dataset_description.json").read_text())
        (about,) = description["GeneratedBy"]
        assert {key: about[key] for key in known} == known
        assert about["Seed"] == SEED
        assert about["SpaceFingerprint"] == dataset.space.fingerprint()
        check_versions(about["Versions"])


def test_sidecars_say_where_a_series_comes_from(datasets, known):
    dataset = datasets[9]
    run = dataset.runs[0]
    about = dataset.sidecar(run)
    assert {key: about[key] for key in known} == known
    assert about["DatasetSeed"] == SEED
    assert about["BatchSize"] == 9
    assert about["SpaceFingerprint"] == dataset.space.fingerprint(dataset.calibration)
    check_versions(about["Versions"])
    derived = json.loads(
        run.preproc.with_name(run.preproc.name.replace(".nii.gz", ".json")).read_text()
    )
    assert derived["SpaceFingerprint"] == about["SpaceFingerprint"]
    assert derived["Sources"]


def check_versions(versions: dict[str, str]) -> None:
    assert versions["llm2bids"] == __version__
    for name in ("torch", "transformers", "numpy"):
        assert versions[name].split("+")[0] == importlib.metadata.version(name).split("+")[0]


def test_the_revision_of_a_hub_model_is_said(synthetic, tmp_path):
    root = synthetic.write_dataset(tmp_path / "dataset", revision="0123abcd")
    (about,) = json.loads((root / "dataset_description.json").read_text())["GeneratedBy"]
    assert "0123abcd" in about.values()


@pytest.mark.parametrize("size", [4, 1])
def test_batches_change_values_by_rounding_alone(datasets, size):
    whole, split = datasets[9], datasets[size]
    for one, other in zip(whole.runs, split.runs, strict=True):
        tokens = [open_dataset(d.path).transcript(r)["token_id"].tolist()
                  for d, r in ((whole, one), (split, other))]  # fmt: skip
        assert tokens[0] == tokens[1]
        np.testing.assert_allclose(split.calibration.mean, whole.calibration.mean, atol=1e-4)
        values, others = whole.values(one), split.values(other)
        sd = np.where(whole.calibration.sd > 0, whole.calibration.sd, 1)
        # rounding may fall to either side
        assert np.max(np.abs(others - values) / sd) <= 1.6 / whole.calibration.counts_per_sd
