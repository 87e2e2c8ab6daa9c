"""ParaVision's parameter files: JCAMP-DX, read by brukerapi."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import PermanentError

if TYPE_CHECKING:
    from brukerapi.jcampdx import JCAMPDX

#: Bytes of a parameter file that is read; larger ones (shapes, trajectories) hold no metadata.
LARGEST = 32 * 1024 * 1024
#: Characters of a value as a field.
LONGEST = 1000


class UnreadableParameters(PermanentError):
    """A parameter file that is missing, damaged or lacks a parameter; the text names file and parameter."""


class Parameters(Mapping[str, object]):
    """The parameters of one file by name (``VisuCoreSize``): numbers, text, arrays, or nested lists."""

    def __init__(self, path: Path, values: JCAMPDX) -> None:
        self.path = path
        self._file = values

    def __getitem__(self, name: str) -> object:
        """The value of a parameter.

        Raises:
            KeyError: the file does not have it.
            UnreadableParameters: its value is damaged.
        """
        parameter = self._file.params[name]
        try:
            return parameter.value
        except Exception as error:  # brukerapi raises errors of many kinds for damaged values
            raise UnreadableParameters(f"{self.path.name}: {name} is damaged ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.params)

    def __len__(self) -> int:
        return len(self._file.params)

    def need(self, name: str) -> object:
        """The value of a parameter that must be there.

        Raises:
            UnreadableParameters: it is missing or damaged.
        """
        if name not in self:
            raise UnreadableParameters(f"{self.path.name} has no {name}")
        return self[name]

    def numbers(self, name: str) -> np.ndarray:
        """A parameter's numbers, flat; empty when it is missing.

        Raises:
            UnreadableParameters: it holds something else.
        """
        if name not in self:
            return np.empty(0)
        try:
            return np.asarray(self[name], dtype=float).ravel()
        except (ValueError, TypeError) as error:
            raise UnreadableParameters(f"{self.path.name}: {name} is not numeric ({error})") from error

    def number(self, name: str) -> float | None:
        """A parameter's first number; ``None`` when it is missing."""
        found = self.numbers(name)
        return float(found[0]) if len(found) else None

    def texts(self, name: str) -> list[str]:
        """A parameter's values as text; empty when it is missing."""
        return [text for value in _flat(self[name]) if (text := str(value).strip())] if name in self else []

    def text(self, name: str) -> str:
        """A parameter's value as text, several joined by a backslash as in DICOM."""
        return "\\".join(self.texts(name))[:LONGEST]

    def rows(self, name: str) -> list[list[object]]:
        """A parameter of structures as a list of them, also if there is one only."""
        if name not in self:
            return []
        value = self[name]
        if not isinstance(value, list) or not value:
            return []
        return value if isinstance(value[0], list) else [value]


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, (list, tuple, np.ndarray)):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def read_parameters(path: Path) -> Parameters:
    """The parameters of a file.

    ParaVision 360 writes UTF-8; older versions write the console's own character set, which is read as Latin-1.

    Raises:
        UnreadableParameters: not a JCAMP-DX file, missing, or damaged.
        OSError: it cannot be read now.
        PermanentError: the extra ``paravision`` is not installed.
    """
    try:  # few sites have ParaVision, and no other needs the library
        from brukerapi.exceptions import InvalidJcampdxFile, JcampdxFileError, JcampdxVersionError
        from brukerapi.jcampdx import JCAMPDX
    except ImportError as error:
        raise PermanentError(
            "ParaVision studies need brukerapi: pip install 'tardis_imagetrove[paravision]'"
        ) from error
    try:
        if path.stat().st_size > LARGEST:
            raise UnreadableParameters(f"{path.name} is larger than {LARGEST // 2**20} MiB")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableParameters(f"{path.name} is missing") from None
    try:
        try:
            content.decode("utf-8")
            return Parameters(path, JCAMPDX(path))
        except UnicodeDecodeError:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder, path.name)
                copy.write_text(content.decode("latin-1"), encoding="utf-8", newline="")
                return Parameters(path, JCAMPDX(copy))
    except (InvalidJcampdxFile, JcampdxFileError, JcampdxVersionError) as error:
        words = str(error).replace(str(path.parent), "").strip()
        raise UnreadableParameters(f"{path.name} is not a parameter file: {words}") from error
    except OSError:
        raise
    except Exception as error:  # as above
        raise UnreadableParameters(f"{path.name} is damaged ({type(error).__name__}: {error})") from error
