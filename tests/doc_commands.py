"""The command lines of the documentation, as the commands' own parsers read them."""

from __future__ import annotations

import argparse
import importlib
import re
from unittest import mock

import pytest

from codi_tf.cli import program

PROGRAMS = {  # how a command begins -> subcommand of `codi`
    **{("codi", name): name for name in program.COMMANDS},
    **{("python", "-m", command.module.removesuffix(".__main__")): name for name, command in program.COMMANDS.items()},
    **{
        ("python", "-m", f"codi_tf.{name}"): name
        for name in ("train", "evaluate", "cache", "pairs", "depth", "convert")
    },
    ("python", "-m", "codi_tf.sample"): "restore",
}


class Found(BaseException):
    """The parser of a command, in place of its run."""

    def __init__(self, parser: argparse.ArgumentParser, method: str):
        self.parser, self.method = parser, method


def parser_of(main) -> Found:
    """The parser that a command's `main` makes, and the method that it calls."""

    def stop(method):
        def found(parser, *_, **__):
            raise Found(parser, method)

        return found

    methods = {name: stop(name) for name in ("parse_args", "parse_intermixed_args")}
    with mock.patch.multiple(argparse.ArgumentParser, **methods), pytest.raises(Found) as caught:
        main([])
    return caught.value


def parsed(name: str, words: list[str]) -> argparse.Namespace:
    """A command's words as its own parser reads them. Raises UserError for what it refuses."""
    found = parser_of(importlib.import_module(program.COMMANDS[name].module).main)
    return getattr(found.parser, found.method)(words)


def subcommand(words: list[str]) -> tuple[str, list[str]] | None:
    """(subcommand of `codi`, its words); None for another program."""
    for start, name in PROGRAMS.items():
        if tuple(words[: len(start)]) == start:
            rest = words[len(start) :]
            checkpoint = name == "restore" and words[0] == "python" and rest and "STABLE" in rest[0]
            return ("text2image" if checkpoint else name), rest
    return None


def required(words: list[str]) -> list[str]:
    """A command without what stands in brackets, with the first of alternatives (a|b)."""
    lists = [word for word in words if re.match(r"[\w.]+=\[", word)]  # of a setting: not what stands in brackets
    others = [word for word in words if word not in lists]
    if not any("[" in word for word in others):
        return words
    return [word.split("|")[0] for word in re.sub(r"\[[^\]]*\]", "", " ".join(others)).split()] + lists
