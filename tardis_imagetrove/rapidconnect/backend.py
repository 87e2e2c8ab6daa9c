"""Deprecated path of ``tardis_imagetrove.signin.backend``; sessions that name it go on."""

from ..signin.backend import RapidConnectBackend

__all__ = ["RapidConnectBackend"]
