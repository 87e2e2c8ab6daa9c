"""Which MyTARDIS this host stands for: 4.7, or the 5.0 of UoA-eResearch with DEVHOST_FLAVOUR=5.0."""

from django.conf import settings

TYPED = settings.DEVHOST_FLAVOUR == "5.0"
"""Whether access rights are kept in a model for each kind of object, as in 5.0; in 4.7 one model has them all."""
