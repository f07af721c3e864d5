"""Options about keys that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _all(options: list[Any]) -> Decorator:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def signing_options() -> Decorator:
    """What a container is signed with."""
    return _all(
        [
            click.option(
                "--key-file",
                type=click.Path(path_type=Path),
                help="The master key. Default: SRD_MASTER_KEY, or the default key file, made on first use.",
            ),
            click.option(
                "--sign-key",
                type=click.Path(path_type=Path),
                help="Ed25519 private key (PEM): also sign for third parties.",
            ),
        ]
    )


def checking_options() -> Decorator:
    """What a container is held against."""
    return _all(
        [
            click.option(
                "--key-file",
                type=click.Path(path_type=Path),
                help="The master key. Default: SRD_MASTER_KEY, or the default key file if there is one.",
            ),
            click.option("--no-key", is_flag=True, help="Check integrity alone, whatever keys there are."),
            click.option(
                "--public-key",
                type=click.Path(path_type=Path),
                help="Ed25519 public key (PEM) that must have signed.",
            ),
            click.option("--fingerprint", metavar="HEX", help="The fingerprint that was published."),
        ]
    )
