"""The stand-in's page, in front of the host's own addresses."""

from django.urls import path

from tardis_imagetrove.signin import root_urls

from . import openid, setup, views

urlpatterns = [path(setup.PATH, views.institution), *openid.urlpatterns, *root_urls.urlpatterns]
handler400 = root_urls.handler400
handler403 = root_urls.handler403
handler404 = root_urls.handler404
handler500 = root_urls.handler500
