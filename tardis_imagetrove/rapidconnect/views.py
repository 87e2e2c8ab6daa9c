"""Deprecated path of ``tardis_imagetrove.signin.views``."""

from ..signin.views import sign_in

__all__ = ["sign_in"]
