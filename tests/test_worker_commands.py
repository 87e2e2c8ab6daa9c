"""The commands that start a worker, as the documentation gives them to a shell that has no settings yet."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tardis_imagetrove.operations import selftest

from .site import HOST, REPOSITORY

pytestmark = pytest.mark.slow

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def commands(text: str) -> list[str]:
    """What stands before ``worker``; a unit of systemd, with a whole path, has its settings in its Environment."""
    return re.findall(r"(?m)(?:^    |`)((?:\w+=\S+ )?celery -A \S+) worker", text)


def test_a_worker_starts_in_a_shell_without_settings():
    given = {command for path in DOCUMENTS for command in commands(path.read_text(encoding="utf-8"))}
    given.update(commands(selftest.WORKER))
    assert given
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), HOST]),
        "PYTHONWARNINGS": "ignore",
    }
    for command in given:
        # Tells the application's settings in place of starting it, of the tests in place of a site's.
        asked = command.replace("tardis.settings", "tests.settings") + " report"
        ran = subprocess.run(
            asked, shell=True, cwd=HOST, env=env, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, f"{command}: {ran.stderr[-500:]}"
        assert "tests.settings" in ran.stdout
