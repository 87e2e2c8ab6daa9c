"""Settings of the tests: the embedded host, or a real MyTARDIS when MYTARDIS_HOME names its folder.

The processes that a test starts (receiver, worker) read this module too, and by the environment
they share the test's database, spool and broker.
"""

import json
import os

from devhost.settings import *  # noqa: F403
from devhost.settings import DATABASES, IMAGETROVE, STATE

if "sqlite" in DATABASES["default"]["ENGINE"]:
    DATABASES["default"]["TEST"] = {"NAME": str(STATE / "test.sqlite3")}
if "IMAGETROVE_TEST_DATABASE" in os.environ:
    DATABASES["default"]["NAME"] = os.environ["IMAGETROVE_TEST_DATABASE"]
# Short, so that a test of what goes on after trouble need not wait a minute for it.
IMAGETROVE |= {"QUIET_SECONDS": 1, "STALL_SECONDS": 4, "RETRY_SECONDS": 1, "RETRY_SECONDS_MAX": 4}
IMAGETROVE |= json.loads(os.environ.get("IMAGETROVE_TEST_SETTINGS", "{}"))
