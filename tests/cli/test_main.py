"""The command line: exit codes, messages, and what is (not) imported."""

import inspect
import os
import re
import subprocess
import sys

import pytest

import llm2bids
from llm2bids import __version__
from llm2bids.cli import main as cli

OPTIONS = ["--device", "cpu", "-q", "--task", "pathology", "--prompts-per-block", "3"]
OPTIONS += ["--tokens-per-prompt", "3", "--participants", "2"]


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return str(tiny_model_dir("llama"))


@pytest.fixture(scope="module")
def scanned(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "dataset"
    assert cli.main(["record", str(path), "--model", model, *OPTIONS]) == 0
    return path


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def test_import_and_help_load_neither_torch_nor_transformers_nor_matplotlib():
    code = (
        "import io, sys, contextlib, llm2bids, llm2bids.cli.main as m\n"
        "with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):\n"
        "    m.main(['--help'])\n"
        "assert 'validator' in said.getvalue()\n"
        "print([n for n in ('torch', 'transformers', 'matplotlib', 'nilearn', 'bids') "
        "if n in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


def test_opening_a_dataset_does_not_load_torch(scanned):
    code = (
        f"import sys, llm2bids; llm2bids.open_dataset({str(scanned)!r})\n"
        "print('torch' in sys.modules)"
    )
    assert run_python(code).strip() == "False"


def test_every_public_name_is_there():
    import llm2bids

    assert {name for name in llm2bids.__all__ if getattr(llm2bids, name, None) is None} == set()
    with pytest.raises(AttributeError, match="no_such"):
        _ = llm2bids.no_such


def test_help_of_every_command(capsys):
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as exit_:
            cli.main([command, "--help"])
        assert exit_.value.code == 0
        assert "usage: llm2bids " + command in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["scan"], ["record"], ["record", "x", "--seed", "one"]])
def test_wrong_usage_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2
    assert "usage: llm2bids" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--participants", "0"], 2, "--participants"),
        (["--tr", "fast"], 2, "--tr fast"),
        (["--model", "nobody/no-such-model"], 1, "--model embedded"),
        (["--paradigm", "nothing.toml"], 1, "nothing.toml"),
        (["--participants", "500"], 1, "--allow-shared-prompts"),
    ],
)
def test_errors_are_one_message_and_an_exit_code(argv, code, message, tmp_path, capsys):
    assert cli.main(["record", str(tmp_path / "d"), "-q", *argv]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "d").exists()


def test_a_folder_that_cannot_be_written(model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["record", str(tmp_path / "file" / "d"), "--model", model, *OPTIONS]) == 1
    assert "file" in capsys.readouterr().err


def test_record_says_what_was_written(scanned, model, capsys):
    assert cli.main(["record", str(scanned), "--model", model, *OPTIONS]) == 0
    out = capsys.readouterr().out
    assert "2 participants, 2 runs" in out
    assert str(scanned) in out


def test_replay(scanned, model, tmp_path, capsys):
    target = tmp_path / "replayed"
    argv = ["replay", str(target), "--transcripts", str(scanned), "--model", model, *OPTIONS]
    assert cli.main(argv) == 0
    assert "2 participants, 2 runs" in capsys.readouterr().out


def test_sites_prints_table_and_totals(model, capsys):
    assert cli.main(["sites", "--model", model, "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["module", "layer", "role", "width", "heads", "head_size"]
    rows = [line.split() for line in lines[1:] if line.startswith(("model.", " "))]
    assert ["model.layers.1.self_attn.q_proj", "1", "self_attn.q_proj", "24", "4", "6"] in rows
    assert "units" in lines[-1]
    assert cli.main(["sites", "--model", model, "-q", "--tsv", "--sites", "residual"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3
    assert cli.main(["sites", "--model", model, "-q", "--skipped"]) == 0
    assert "rotary_emb" in capsys.readouterr().out


def test_validate(scanned, tmp_path, capsys):
    assert cli.main(["validate", str(scanned)]) == 0
    assert capsys.readouterr().out.count("0 errors, 0 warnings") == 2
    assert cli.main(["validate", str(tmp_path)]) == 1


def test_locate_writes_units_and_a_summary(scanned, tmp_path, capsys):
    import numpy as np

    from llm2bids import open_dataset

    dataset = open_dataset(scanned)
    values = np.zeros(dataset.space.n_units)
    values[[5, 77]] = 4.5, -6.0
    import nibabel as nib

    img = nib.Nifti1Image(dataset.space.to_grid(values), dataset.space.affine)
    nib.save(img, tmp_path / "z.nii.gz")
    argv = ["locate", str(tmp_path / "z.nii.gz")]
    assert cli.main(argv) == 2
    assert "--dataset" in capsys.readouterr().err
    argv += ["--dataset", str(scanned)]
    assert cli.main(argv) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + 2
    assert dataset.space.address_of(77) in rows[1]
    assert cli.main([*argv, "--one-sided", "-o", str(tmp_path / "units.tsv")]) == 0
    assert "n_units" in capsys.readouterr().out
    assert len((tmp_path / "units.tsv").read_text().splitlines()) == 1 + 1
    link = tmp_path / "link.tsv"
    link.symlink_to("units.tsv")
    assert cli.main([*argv, "-o", str(link)]) == 0
    assert link.is_symlink()
    assert len((tmp_path / "units.tsv").read_text().splitlines()) == 1 + 2
    capsys.readouterr()
    assert cli.main([*argv, "--summary", "--threshold", "5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 1


ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_paths_that_the_terminal_cannot_show(model, tmp_path):
    home = tmp_path / "Müller 脑"
    home.mkdir()
    data, out = str(home / "bids"), str(home / "out")
    stat = "out/sub-01/func/*task-pathology*contrast-pathology_stat-effect_statmap.nii.gz"

    def call(*arguments):
        command = [sys.executable, "-m", "llm2bids.cli.main", *map(os.fspath, arguments)]
        environment = {**os.environ, **ASCII}
        done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
        text = (done.stdout + done.stderr).decode("ascii")
        assert "Traceback" not in text
        assert "Error" not in text
        return done.returncode, text

    code, text = call("record", data, "--model", model, *OPTIONS)
    assert code == 0
    assert "M\\" in text
    assert call("analyze", data, out, "participant")[0] == 0
    (image,) = home.glob(stat)
    assert call("check", data)[0] == 0
    assert call("report", out, "--dataset", data)[0] == 0
    for arguments in (
        ["locate", image, "--dataset", data, "--top-percent", "3"],
        ["sites", "--model", data],
    ):
        assert call(*arguments)[0] in (0, 1)
    assert call("analyze", home / "nicht da", out, "participant")[0] == 1


def test_verbosity(tmp_path, capsys):
    assert cli.main(["check", str(tmp_path / "none"), "-v"]) != 0
    said = capsys.readouterr().err
    assert re.search(rf"\d\d:\d\d:\d\d,\d+ llm2bids: llm2bids {__version__}, Python 3", said)
    assert cli.main(["check", str(tmp_path / "none")]) != 0
    assert "Python 3" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["check", str(tmp_path / "none"), "-q", "-v"])
    assert "not allowed with argument -q/--quiet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["record", "replay", "read", "features", "localize", "compare", "lesion", "steer", "monitor"],
)
def test_every_option_of_a_command_reaches_its_verb(command):
    """`replay` took --prepare, --participant-label, --overwrite and -q, and passed none of them."""
    parser = cli.build_parser([command])._subparsers._group_actions[0].choices[command]
    names = {action.dest for action in parser._actions} - {"help", "verbose", "debug"}
    if command in ("features", "localize", "compare"):
        names.remove("progress")  # nothing to show
    assert names <= set(inspect.signature(getattr(llm2bids, command)).parameters)


def test_a_replay_is_prepared_and_recorded_in_parts(scanned, model, tmp_path, capsys):
    out = tmp_path / "replay"
    argv = ["replay", str(out), "--transcripts", str(scanned), "--model", model, *OPTIONS]
    assert cli.main([*argv, "--prepare"]) == 0
    assert cli.main([*argv, "--participant-label", "02"]) == 0
    assert not list(out.glob("sub-*"))
    assert cli.main(["merge", str(out), "--allow-missing"]) == 0
    assert [path.name for path in out.glob("sub-*")] == ["sub-02"]
    assert "tok" not in capsys.readouterr().err  # -q: no bar
