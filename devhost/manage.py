#!/usr/bin/env python
"""Runs any Django command on the embedded host, from whatever folder it is called."""

import os
import sys
from pathlib import Path


def main():
    repository = str(Path(__file__).resolve().parent.parent)
    if repository not in sys.path:
        sys.path.insert(0, repository)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "devhost.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
