"""The options of commands that say on which devices they compute."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from codi_tf import config
from codi_tf.core.arguments import text_argument

NAMES = ("strategy", "tpu", "data_service")


def add_devices(parser: argparse.ArgumentParser, strategies: Collection[str] = config.STRATEGIES) -> None:
    """Add --strategy, one of `strategies`, and --tpu."""
    parser.add_argument("--strategy", choices=strategies, help="distribution.strategy of the config")
    parser.add_argument("--tpu", help="distribution.tpu of the config: local, a TPU's name, or grpc://HOST:PORT,..")


def add_data_service(parser: argparse.ArgumentParser) -> None:
    """Add --data-service."""
    parser.add_argument(
        "--data-service",
        type=text_argument,
        metavar="HOST:PORT",
        help="distribution.data_service of the config: a tf.data service whose workers make the batches",
    )


def devices_given(options: argparse.Namespace) -> list[str]:
    """What those of these options that a command has change in its config."""
    given = {name: getattr(options, name, None) for name in NAMES}
    return [f"distribution.{name}={value}" for name, value in given.items() if value is not None]
