"""A tiny model's dataset with a hostile prompt, its analysis, and a browser."""

import nibabel as nib
import numpy as np
import pytest

from llm2bids.dataset.read import open_dataset
from llm2bids.inference.analyze import analyze_group, analyze_participants
from llm2bids.scan.record import record
from tests.report.browser import Browser, find_chromium

HOSTILE = "Say <script>document.title='hacked'</script> & </script><img src=x onerror=alert(1)>"

PARADIGM = """description = "Two pets & <b>off</b> prompts."
order = "off_on_off"
baseline = "off"
prompts_per_block = 2
tokens_per_prompt = 3
calibration_prompts = 4

[tasks]
cats = "cats"
dogs = "dogs"

[banks]
cats = "cats.tsv"
dogs = "dogs.tsv"
off = "off.tsv"
"""


def write_paradigm(folder):
    """Write a paradigm with three banks; every cat prompt is hostile."""
    texts = {"cats": HOSTILE, "dogs": "Tell me of a dog", "off": "Say a word"}
    for name, count in (("cats", 8), ("dogs", 9), ("off", 40)):
        rows = [f"{name}-{n}\t{name}\tany\t{texts[name]} {n}\n" for n in range(count)]
        header = "prompt_id\tcondition\ttopic\ttext\n"
        (folder / f"{name}.tsv").write_text(header + "".join(rows), encoding="utf-8")
    path = folder / "pets.toml"
    path.write_text(PARADIGM, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def scanned(tiny_model_dir, tmp_path_factory):
    """Folder with ``dataset`` and ``analysis`` of three participants; not to be changed."""
    out = tmp_path_factory.mktemp("scanned")
    paradigm = write_paradigm(tmp_path_factory.mktemp("paradigm"))
    record(
        out / "dataset",
        model=tiny_model_dir("llama"),
        device="cpu",
        paradigm=paradigm,
        n_participants=3,
        progress=False,
    )
    analyze_participants(out / "dataset", out / "analysis", progress=False)
    analyze_group(out / "dataset", out / "analysis", progress=False)
    return out


@pytest.fixture(scope="session")
def masked(scanned, tmp_path_factory):
    """The same dataset analysed within the MLPs only, and which units these are."""
    dataset = open_dataset(scanned / "dataset")
    space = dataset.space
    inside = np.repeat(
        ["mlp" in site.role for site in space.sites], [site.width for site in space.sites]
    )
    folder = tmp_path_factory.mktemp("masked")
    mask = folder / "mask.nii.gz"
    nib.save(nib.Nifti1Image(space.to_grid(inside.astype(np.uint8)), space.affine), mask)
    out = folder / "analysis"
    analyze_participants(scanned / "dataset", out, mask_img=mask, progress=False)
    analyze_group(scanned / "dataset", out, progress=False)
    return out, inside


@pytest.fixture(scope="session")
def page(scanned, tmp_path_factory):
    """The report of ``scanned``."""
    from llm2bids.report.page import write_report

    output = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(scanned, output=output, progress=False)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine: install it (Debian: apt install chromium)")
    with Browser(executable) as opened:
        yield opened
