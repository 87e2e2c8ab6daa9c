"""What an installation by pip gets."""

from pathlib import Path

from setuptools import find_packages

REPOSITORY = Path(__file__).resolve().parent.parent


def test_every_folder_that_holds_modules_is_a_package_that_a_wheel_holds():
    folders = {
        ".".join(module.parent.relative_to(REPOSITORY).parts)
        for module in (REPOSITORY / "tardis_imagetrove").rglob("*.py")
    }
    # As pyproject.toml asks for them: a folder without __init__.py can be imported here, and is left out there.
    packaged = set(find_packages(str(REPOSITORY), include=["tardis_imagetrove", "tardis_imagetrove.*"]))
    assert folders == packaged
