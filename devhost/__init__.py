"""The embedded host: a small Django project that stands in for MyTARDIS on a developer's machine."""
