"""`srd-rs resign`: a container signed with another key."""

from __future__ import annotations

from pathlib import Path

import click

from srd_rs.cli.convert import container_json, container_lines
from srd_rs.cli.options import (
    GroupedCommand,
    convert_option,
    json_option,
    option,
    path_option,
    signing_options,
)
from srd_rs.cli.output import show
from srd_rs.progress import progress_bar

EXAMPLES = """\b
Examples:
  srd-rs resign model.axm -o new.axm --key-file new.key
  srd-rs resign model.axm -o new.axm --old-key-file old.key --sign-key private.pem
"""


@click.command("resign", cls=GroupedCommand, short_help="Sign a container with another key.", epilog=EXAMPLES)
@click.argument("container")
@path_option("-o", "--output", group="Output", required=True, help="The container to write.")
@signing_options()
@path_option(
    "--old-key-file",
    group="Keys",
    help="Master key of CONTAINER. The default is the variable SRD_MASTER_KEY, or the default key file.",
)
@option(
    "--no-old-key",
    group="Keys",
    is_flag=True,
    help="Check the integrity alone, because the old key is lost. A forged container is then signed, too.",
)
@option(
    "--drop-signature",
    group="Keys",
    is_flag=True,
    help="Allow that the Ed25519 signature of CONTAINER is lost, where no --sign-key makes a new one.",
)
@convert_option("threads")
@convert_option("overwrite")
@json_option()
def command(
    container: str,
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

    with progress_bar(as_json=as_json) as progress:
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
