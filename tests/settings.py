"""Settings of the tests: the embedded host, or a real MyTARDIS when MYTARDIS_HOME names its folder."""

from devhost.settings import *  # noqa: F403
