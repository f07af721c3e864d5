"""`srd-rs resign`: a container signed with another key."""

from __future__ import annotations

from pathlib import Path

import click

from srd_rs.cli.convert import container_json, container_lines
from srd_rs.cli.options import GroupedCommand, convert_option, json_option, signing_options
from srd_rs.cli.output import show
from srd_rs.cli.progress import progress_bar


@click.command("resign", cls=GroupedCommand, short_help="Sign a container with another key.")
@click.argument("container", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="The container to write.",
)
@signing_options()
@click.option(
    "--old-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Master key of CONTAINER.",
)
@click.option(
    "--no-old-key",
    is_flag=True,
    help="Check the integrity alone, because the old key is lost. A forged container is then signed, too.",
)
@click.option(
    "--drop-signature",
    is_flag=True,
    help="Allow that the Ed25519 signature of CONTAINER is lost, where no --sign-key makes a new one.",
)
@convert_option("threads")
@convert_option("overwrite")
@json_option()
def command(
    container: Path,
    output: Path,
    key_file: Path | None,
    sign_key: Path | None,
    old_key_file: Path | None,
    no_old_key: bool,
    drop_signature: bool,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Copy CONTAINER, signed with another master key. Its weights are copied and checked, not converted again.

    The fingerprint changes with the key: publish the new one.
    """
    from srd_rs.container import resign

    with progress_bar(wanted=not as_json) as progress:
        sealed = resign(
            container,
            output,
            key_file=key_file,
            old_key_file=old_key_file,
            use_old_key=not no_old_key,
            sign_key=sign_key,
            drop_signature=drop_signature,
            threads=threads,
            overwrite=overwrite,
            progress=progress,
        )
    show(lambda: container_json(sealed), lambda: "\n".join(container_lines(sealed)), as_json=as_json)
