"""The embedded host's settings under the name by which MyTARDIS' own processes load them."""

import sys
from pathlib import Path

_repository = str(Path(__file__).resolve().parents[2])
if _repository not in sys.path:
    sys.path.insert(0, _repository)

from devhost.settings import *  # noqa: E402, F403
