"""What every config.pbtxt of the model repository has in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.models.config import parse_config
from gateway.settings import CHECKOUT

CONFIGS = sorted((CHECKOUT / "model_repository").glob("*/**/*.pbtxt"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parts[-2]}/{p.name}")
def test_a_config_names_the_versions_to_load(path: Path) -> None:
    """Else Triton would load whatever version is added next, before anyone has checked it."""
    config = parse_config(path.read_text())
    assert list(config.version_policy.specific.versions) == [1]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parts[-2]}/{p.name}")
def test_a_config_names_its_capability(path: Path) -> None:
    capability = parse_config(path.read_text()).parameters["capability"].string_value
    assert capability == "upscale" or not path.parts[-2].startswith("realesr")
    assert capability in ("upscale", "detect", "transcribe", "detect_speech")
