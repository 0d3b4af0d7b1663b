"""perf/ is run by path; its parts are imported as its own scripts import them."""

from __future__ import annotations

import sys

from gateway.settings import CHECKOUT

sys.path.append(str(CHECKOUT / "perf"))
