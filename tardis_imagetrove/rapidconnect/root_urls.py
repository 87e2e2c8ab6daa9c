"""Deprecated path of ``tardis_imagetrove.signin.root_urls``."""

from ..signin.root_urls import handler400, handler403, handler404, handler500, urlpatterns

__all__ = ["handler400", "handler403", "handler404", "handler500", "urlpatterns"]
