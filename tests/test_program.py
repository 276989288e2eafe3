"""The program `codi`: its list of commands, and every command under its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import codi_tf
from codi_tf.cli import restore, text2image
from codi_tf.cli.program import COMMANDS, main
from codi_tf.core.errors import UserError

ROOT = Path(codi_tf.__file__).parents[1]


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_it_lists_all_commands(arguments, capsys):
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == list(COMMANDS) and max(map(len, lines)) <= 100
    assert set(listed) >= {"train", "restore", "text2image", "evaluate", "export", "run", "web"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_shown_under_its_name(name, capsys):
    """Its usage names `codi NAME`, and no other program."""
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0 and shown.startswith(f"usage: codi {name} ")
    with pytest.raises(UserError, match=f"see codi {name} --help"):
        main([name, "--nonsense"])


def test_a_name_that_is_not_known_is_one_line():
    with pytest.raises(UserError, match="unknown command 'trian': did you mean 'train'?"):
        main(["trian"])
    with pytest.raises(UserError, match="unknown command 'xyz': choose one of train, restore, "):
        main(["xyz"])


def test_as_a_process_it_loads_no_tensorflow_for_its_list():
    program = (
        "import sys; sys.argv = ['codi', *sys.argv[1:]]\n"
        "try:\n    from codi_tf.cli.program import console; console()\n"
        "finally:\n    assert not {'tensorflow', 'keras', 'export'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", program, "trian"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and done.stderr == "error: unknown command 'trian': did you mean 'train'?\n"


@pytest.fixture
def bundle(tmp_path):
    """Enough of one for the options to be checked."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "codi.json").write_text("{}")
    return tmp_path / "bundle"


def test_each_program_names_the_other(bundle, tmp_path):
    """A checkpoint is not restored from, and a bundle makes no image from a prompt alone."""
    out = ["--out", str(tmp_path / "out.png")]
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(UserError, match=r"checkpoint is no trained model \(it has no codi.json\); .*codi text2image"):
        restore.main([str(tmp_path / "checkpoint"), *out])
    with pytest.raises(UserError, match="bundle is a trained model; for an image from a condition: codi restore"):
        text2image.main([str(bundle), *out, "--prompt", "a cat"])


def test_options_of_the_other_program_are_unknown(bundle, tmp_path):
    with pytest.raises(UserError, match="unrecognized arguments: --negative-prompt x"):
        restore.main([str(bundle), "--out", str(tmp_path / "out.png"), "--negative-prompt", "x"])


def test_the_british_spelling_is_an_alias(bundle, tmp_path, capsys):
    with pytest.raises(UserError, match="--condition is missing"):
        restore.main([str(bundle), "--out", str(tmp_path / "out.png"), "--colour", "wavelet"])
    with pytest.raises(SystemExit):
        restore.main(["--help"])
    assert "--colour" not in capsys.readouterr().out
