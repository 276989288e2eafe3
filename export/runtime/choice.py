"""Which runtime runs a package, and how: the options that commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from codi_tf.core.arguments import integer, path_argument, text_argument, whole_number
from codi_tf.core.errors import UserError
from export.formats import FORMATS
from export.formats.runtimes import RUNTIMES
from export.formats.runtimes.runtime import RunOptions, Runtime
from export.formats.threads import default_threads

MAX_THREADS = 1024


class Choice(NamedTuple):
    """What a user chooses; None: the default.

    Attributes:
        runtime: RUNTIME or RUNTIME:COMPUTE, as "openvino:bfloat16": a name of `RUNTIMES` that reads the package's
            format, and the number format that it computes in.
        provider: where it computes: ONNX Runtime's execution provider, OpenVINO's device.
        threads: that each graph runs on. TensorFlow has its own setting.
        cache: a folder that keeps compiled graphs, for OpenVINO.
    """

    runtime: str | None = None
    provider: str | None = None
    threads: int | None = None
    cache: Path | None = None


def resolve(choice: Choice, format: str) -> tuple[type[Runtime], RunOptions]:
    """The runtime of a choice for packages of a format, and its options.

    Raises:
        UserError: a runtime that is unknown, does not read the format or does not compute so; a provider that it does
            not have here; a number of threads out of range; a cache where there is none.
    """
    runtime, compute = resolve_runtime(choice.runtime, format)
    threads, provider = threads_of(runtime, choice.threads), (choice.provider or "cpu").lower()
    if choice.cache is not None and not runtime.caches:
        raise UserError(f"--cache is {choice.cache}: {runtime.title} keeps no compiled graphs; leave it out")
    if choice.provider is not None and provider not in runtime.providers():
        raise UserError(
            f"--provider is {choice.provider!r}: {runtime.title} here has {', '.join(runtime.providers())}; "
            "use one of these, or install a build that has it"
        )
    return runtime, RunOptions(threads, compute, provider, choice.cache)


def resolve_runtime(text: str | None, format: str) -> tuple[type[Runtime], str]:
    """The runtime and the number format of RUNTIME or RUNTIME:COMPUTE; None: those that the format has by default.

    Raises:
        UserError: see `resolve`.
    """
    known = FORMATS[format].runtimes
    name, colon, compute = (known[0] if text is None else text).partition(":")
    runtime = RUNTIMES[name]
    if name not in known:
        raise UserError(f"--runtime is {text!r}: {format} packages run in {', '.join(known)}")
    if colon and compute not in runtime.computes:
        raise UserError(f"--runtime is {text!r}: {runtime.title} computes in {', '.join(runtime.computes)}")
    return runtime, compute if colon else runtime.computes[0]


def check_runtimes(texts: Iterable[str], format: str) -> None:
    """Check that these runtimes, as RUNTIME or RUNTIME:COMPUTE, run packages of a format beside its default.

    Raises:
        UserError: see `resolve`; one that is not installed, or is the default.
    """
    for text in texts:
        found = resolve_runtime(text, format)
        if found == resolve_runtime(None, format):
            raise UserError(f"--runtime is {text!r}: the gate always runs {format} packages there; leave it out")
        found[0].installed()


def threads_of(runtime: type[Runtime], threads: int | None = None) -> int:
    """The threads of a runtime. Raises UserError for a number that is not 1 to MAX_THREADS."""
    wanted = default_threads(runtime.max_threads) if threads is None else threads
    return whole_number("threads", wanted, 1, MAX_THREADS)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options of a choice to a command, and --providers."""
    parser.add_argument(
        "--runtime",
        type=text_argument,
        metavar="RUNTIME[:COMPUTE]",
        help=f"one of {', '.join(RUNTIMES)}, if it reads the package (default: that of its format); openvino:bfloat16 "
        "computes in bfloat16",
    )
    parser.add_argument(
        "--provider",
        type=text_argument,
        help="where the runtime computes, as cpu, cuda, coreml: ONNX Runtime's execution provider, OpenVINO's device "
        "(default: cpu)",
    )
    parser.add_argument("--providers", action=_Providers, nargs=0, help="list the providers of each runtime, and exit")
    parser.add_argument(
        "--threads",
        type=integer(1, MAX_THREADS),
        help="threads (default: as many as processors; LiteRT: 8 at most)",
    )
    parser.add_argument("--cache", type=path_argument, help="folder in which OpenVINO keeps compiled graphs")


def choice_of(options: argparse.Namespace) -> Choice:
    """The choice among the parsed options of a command."""
    return Choice(**{name: getattr(options, name) for name in Choice._fields})


def reported() -> str:
    """The providers of each runtime on this machine, a line for each."""
    return "\n".join(f"{name}: {_reported(RUNTIMES[name])}" for name in RUNTIMES if not RUNTIMES[name].needs_tensorflow)


def _reported(runtime: type[Runtime]) -> str:
    try:
        return ", ".join(runtime.providers())
    except UserError as error:
        return f"not installed ({error})"


class _Providers(argparse.Action):
    """Print what `reported` says, and exit."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(reported())
        parser.exit()
