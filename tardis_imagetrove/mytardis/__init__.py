"""MyTARDIS: the only room that touches ``tardis.*`` models; the others hand it ids and get ids."""

from .base import FileRecord, MyTardis
from .flavours import mytardis

__all__ = ["FileRecord", "MyTardis", "mytardis"]
