"""Files that no package holds, as modules."""

from __future__ import annotations

import sys
from importlib import util
from types import ModuleType

from gateway.settings import CHECKOUT


def script(path: str) -> ModuleType:
    """A script, or a part of a backend, by its path below the checkout."""
    name = f"script_{path.rpartition('/')[2].removesuffix('.py')}"
    spec = util.spec_from_file_location(name, CHECKOUT / path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
