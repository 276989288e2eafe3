"""Numbers and paths on command lines: finite, in range, named in one line."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from unittest import mock

import pytest

from codi_tf.cli.program import COMMANDS
from codi_tf.core.arguments import (
    finite_number,
    integer,
    path_argument,
    scaled_path,
    seed_number,
    several,
    text_argument,
)
from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError

NONE_IS_A_NUMBER = ("nan", "inf", "-inf", "1e999", "1e39", "0x10", "1_0", "", " ", "one", "1,5", "9" * 5000, "--")
MODULES = {**{name: command.module for name, command in COMMANDS.items()}, "sample": "codi_tf.cli.sample"}


class Seen(Exception):
    pass


def options_of(module: str) -> list[argparse.Action]:
    """The options of a command."""
    found = []

    def see(self, *_, **__):
        found.extend(self._actions)
        raise Seen

    main = importlib.import_module(module).main
    with (
        mock.patch.object(ArgumentParser, "parse_args", see),
        mock.patch.object(ArgumentParser, "parse_intermixed_args", see),
        pytest.raises(Seen),
    ):
        main([])
    return found


@pytest.mark.parametrize("command", MODULES)
def test_every_option_that_is_a_number_refuses_what_is_none(command):
    """Catches an option that takes nan, which compares with nothing, and a path that is the current folder."""
    for option in options_of(MODULES[command]):
        assert option.type is not Path, option.option_strings
        if option.type in (None, path_argument, scaled_path, text_argument):
            continue
        takes_several = option.type.__qualname__.startswith(f"{several.__name__}.")
        for text in NONE_IS_A_NUMBER:
            text = "1," if takes_several and text == "1,5" else text
            with pytest.raises((argparse.ArgumentTypeError, ValueError)) as caught:
                option.type(text)
                raise AssertionError(f"{option.option_strings} takes {text!r}")
            assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("kind", "good", "bad", "message"),
    [
        (
            integer(1, 1000),
            {"1": 1, "1000": 1000, "+7": 7, "007": 7},
            ["0", "1001", "-1", "1.0", "1e3"],
            "from 1 to 1000",
        ),
        (seed_number, {"0": 0, str(2**63 - 1): 2**63 - 1}, ["-1", str(2**63)], "a whole number from 0 to"),
        (finite_number(), {"-1e3": -1000.0, ".5": 0.5}, ["nan"], "it must be a finite number"),
        (finite_number(0, 1, above=True), {"1": 1.0, "1e-9": 1e-9}, ["0", "-0", "1.01"], "above 0 and at most 1"),
        (finite_number(0), {"0": 0.0}, ["-1e-9"], "it must be a number at least 0$"),
    ],
)
def test_numbers_and_their_lines(kind, good, bad, message):
    parser = ArgumentParser(prog="program")
    parser.add_argument("--number", type=kind)
    for text, value in good.items():
        assert parser.parse_args([f"--number={text}"]).number == value
    for text in (*bad, "x" * 5000):
        with pytest.raises(UserError, match=f"^--number is {text[:40]}.*: .*see program --help$") as caught:
            parser.parse_args([f"--number={text}"])
        assert len(str(caught.value)) < 200
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        kind(bad[0])


def test_paths(tmp_path):
    assert path_argument("a/b ") == Path("a/b ")
    assert text_argument("tfds:x") == "tfds:x"
    with pytest.raises(argparse.ArgumentTypeError, match="your shell has not replaced the ~"):  # bash: --out=~/x
        path_argument("~/x")
    for text in ("", " ", "\n"):
        with pytest.raises(argparse.ArgumentTypeError, match="give a name"):
            text_argument(text)
        with pytest.raises(argparse.ArgumentTypeError, match="name a file or a folder"):
            path_argument(text)
