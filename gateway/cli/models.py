"""`nereid models add`: a custom checkpoint becomes a model that Triton serves."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.main import configured


@click.group()
def models() -> None:
    """The models that Triton serves."""


@models.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", help="The model's name; the file's name unless given.")
def add(file: Path, name: str | None) -> None:
    """Convert FILE (.pth, .safetensors, .onnx), check it, and add it to the model repository."""
    from gateway.model_import import add_model

    settings = configured()
    add_model(file, settings.model_repository, name, say=click.echo)
