"""TemplateFlow's own client finds the template in the derivative, without a network."""

import json
import subprocess

import pytest

from tests.brought import environment

pytestmark = [pytest.mark.interop, pytest.mark.slow]

_QUERIES = """
import json, sys
from templateflow import api

def names(**entities):
    files = api.get("Tiny", **entities)
    return sorted(file.name for file in (files if isinstance(files, list) else [files]))

json.dump(
    {
        "templates": api.templates(),
        "anatomy": names(suffix="T1w", extension=".nii.gz"),
        "brain": names(desc="brain", suffix="mask", extension=".nii.gz"),
        "units": names(label="GM", suffix="mask", extension=".nii.gz"),
        "atlas": names(atlas="sites", suffix="dseg", extension=[".nii.gz", ".tsv"]),
        "metadata": api.get_metadata("Tiny"),
    },
    sys.stdout,
)
"""


def test_the_client_finds_the_template(recorded):
    python = environment("templateflow", "templateflow==25.1.2")
    said = subprocess.run(
        [str(python), "-c", _QUERIES],
        env={"TEMPLATEFLOW_HOME": str(recorded.derivative), "TEMPLATEFLOW_AUTOUPDATE": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    answers = json.loads(said.stdout)
    stem = "tpl-Tiny"
    assert answers["templates"] == ["Tiny"]
    assert answers["anatomy"] == [f"{stem}_T1w.nii.gz"]
    assert answers["brain"] == [f"{stem}_desc-brain_mask.nii.gz"]
    assert answers["units"] == [f"{stem}_label-GM_mask.nii.gz"]
    assert answers["atlas"] == [f"{stem}_atlas-sites_dseg.{end}" for end in ("nii.gz", "tsv")]
    assert answers["metadata"]["Identifier"] == "Tiny"
    assert answers["metadata"]["SpaceFingerprint"] == recorded.space.fingerprint()
