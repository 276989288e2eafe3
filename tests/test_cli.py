"""What all command lines share: every mistake is one line on standard error and exit status 2."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import codi_tf
from codi_tf.core.command_line import ArgumentParser, run_command
from codi_tf.core.errors import UserError

ROOT = Path(codi_tf.__file__).parents[1]


COMMANDS = ("train", "sample", "evaluate", "convert", "cache", "depth", "pairs")
PROGRAMS = (*(f"codi_tf.{command}" for command in COMMANDS), "export", "export.run", "export.web")


@pytest.mark.parametrize("module", PROGRAMS)
def test_programs_complain_in_one_line(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--nonsense"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert f"python -m {module} --help" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --out"),
        (["--out", "x", "--steps", "four"], "argument --steps: invalid int value: 'four'"),
        (["--out", "x", "--kind", "c"], "^--kind is c: choose from a, b; see program --help$"),
        (["--out", "x", "one\ntwo"], "unrecognized arguments: one two; see program --help"),
        (["--out"], "expected one argument"),
    ],
)
def test_parser_raises_user_errors(arguments, message):
    parser = ArgumentParser(prog="program")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--kind", choices=("a", "b"))
    with pytest.raises(UserError, match=message) as caught:
        parser.parse_args(arguments)
    assert "\n" not in str(caught.value)


def test_what_may_be_left_out_is_not_asked_for():
    """`codi train` alone asked for "config, section.key=value"."""
    parser = ArgumentParser(prog="program")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    with pytest.raises(UserError, match="^the following arguments are required: config; see program --help$"):
        parser.parse_intermixed_args([])


def test_help_is_still_help(capsys):
    with pytest.raises(SystemExit) as caught:
        ArgumentParser(prog="program").parse_args(["--help"])
    assert caught.value.code == 0 and "usage: program" in capsys.readouterr().out


def test_tensorflow_is_quiet_while_it_computes():
    """oneDNN has a word about float16 where the processor has no instructions for it."""
    program = (
        "from codi_tf.core.command_line import start_tensorflow; start_tensorflow(); import tensorflow as tf; "
        "ones = tf.ones([64, 64], tf.float16); tf.function(tf.matmul)(ones, ones)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0 and done.stderr == ""


def test_exit_statuses(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "a", "b"])
    received = []
    assert run_command(received.extend) == 0 and received == ["a", "b"]

    def mistaken(_):
        raise UserError("name: what and how")

    def interrupted(_):
        raise KeyboardInterrupt

    assert run_command(mistaken) == 2
    assert run_command(interrupted) == 130
    assert capsys.readouterr().err == "error: name: what and how\ninterrupted\n"


class RuntimeException(Exception):
    """As ONNX Runtime's."""


RuntimeException.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


class ResourceExhaustedError(Exception):
    """As TensorFlow's."""


ResourceExhaustedError.__module__ = "tensorflow.python.framework.errors_impl"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a.bin"), "cannot write a.bin: No space left on device; make room or"),
        (OSError(122, "Disk quota exceeded"), "cannot write: Disk quota exceeded; make room or choose another place"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "cannot write: No space left on device; "),
        (
            PermissionError(13, "Permission denied", "a\nb"),
            "a\\nb: Permission denied; check the place, and that you may",
        ),
        (IsADirectoryError(21, "Is a directory", "x"), "x: Is a directory; check the place"),
        (OSError("stopped in the middle"), "stopped in the middle; check the place"),
        (
            MemoryError("Unable to allocate 4 TiB"),
            "not enough memory (Unable to allocate 4 TiB); choose a smaller size",
        ),
        (MemoryError(), "not enough memory; choose"),
        (
            ResourceExhaustedError("Graph error\nOOM when allocating x\nmore"),
            "not enough memory (OOM when allocating x); ",
        ),
        (RuntimeException("Failed to allocate memory for a buffer"), "not enough memory (Failed to allocate memory"),
        (RuntimeException("bad node\nmore"), "ONNX Runtime fails (bad node); export the model again, or update"),
        (UserError("caf\udce9.png\x1b[2J: no"), "caf\\xe9.png\\x1b[2J: no"),
    ],
)
def test_faults_of_the_machine_are_one_line(capsys, error, line):
    """Catches a traceback where one line is promised, and a file's name that writes to the terminal."""

    def fails(_):
        raise error

    assert run_command(fails) == 2
    (found,) = capsys.readouterr().err.splitlines()
    assert found.startswith(f"error: {line}")


def test_bugs_keep_their_traceback():
    for error in (TypeError("x"), AssertionError(), RuntimeError("x"), IndexError(3)):

        def fails(_, error=error):
            raise error

        with pytest.raises(type(error)):
            run_command(fails)


def test_nobody_reads_the_output():
    """`codi --help | head -1`. Catches the traceback of a broken pipe, also the one at the interpreter's end."""
    program = (
        "import sys; from codi_tf.core.command_line import run_command\n"
        "def main(_):\n    for _ in range(100_000): print('a line of the output')\n"
        "sys.exit(run_command(main))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def test_an_error_of_the_user_within_tf_data_is_one_line(capsys):
    """TensorFlow makes an error of its own of it, with a traceback in its message."""
    import tensorflow as tf

    def complains(_):
        raise UserError("a.tar: cut off; copy it again")

    def reads(_):
        next(iter(tf.data.Dataset.range(1).map(lambda i: tf.numpy_function(complains, [i], tf.int64))))

    def fails(_):
        next(iter(tf.data.Dataset.range(1).map(lambda i: tf.numpy_function(len, [i], tf.int64))))

    assert run_command(reads) == 2
    assert capsys.readouterr().err == "error: a.tar: cut off; copy it again\n"
    with pytest.raises(tf.errors.OpError):
        run_command(fails)


def test_a_warning_that_comes_again_is_shown_once(capsys):
    def warns(_):
        for name in ("a", "b", "a"):
            with warnings.catch_warnings():  # the interpreter forgets here what it has shown
                warnings.simplefilter("always")
                warnings.warn(name, stacklevel=1)

    assert run_command(warns) == 0
    assert run_command(warns) == 0
    assert capsys.readouterr().err == 2 * "warning: a\nwarning: b\n"


def test_warnings_are_one_line(capsys):
    def warns(_):
        warnings.warn("the prompt\nis too long", stacklevel=1)
        warnings.warn("old", FutureWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning
        assert run_command(warns) == 0
        assert warnings.showwarning is before  # as it was
    first, second = capsys.readouterr().err.splitlines()
    assert first == "warning: the prompt is too long"
    assert second.startswith("warning: ") and second.endswith("FutureWarning: old")
