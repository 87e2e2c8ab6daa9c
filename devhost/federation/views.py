"""The page of the institution that the stand-in plays: choose who you are, and its form goes to the host."""

import time

from django.conf import settings
from django.http import Http404
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from . import assertions
from .people import PEOPLE

# How an assertion can be spoilt, to show what the host makes of it.
SPOILT = {
    "": "a good one",
    "expired": "expired an hour ago",
    "signature": "signed with another secret",
    "audience": "made for another site",
    "replay": "the same one every time",
}


@never_cache
def institution(request):
    """Without `person`, a page to choose one; with it, a form that submits itself to the host."""
    if not getattr(settings, "DEVHOST_FEDERATION", ""):
        raise Http404
    person, spoilt = request.GET.get("person"), request.GET.get("spoilt", "")
    if person not in PEOPLE or spoilt not in SPOILT:
        return render(request, "federation/choose.html", {"people": PEOPLE, "spoilt": SPOILT})
    config = settings.RAPID_CONNECT_CONFIG
    audience = config["aud"]
    claims = assertions.claims(
        assertions.targeted_id(person, audience),
        PEOPLE[person],
        audience="https://another.example.org/rc/" if spoilt == "audience" else audience,
        now=int(time.time()) - 3600 if spoilt == "expired" else None,
    )
    if spoilt == "replay":
        claims["jti"] = f"the same every time, for {person}"
    token = assertions.sign(claims, "another secret" * 3 if spoilt == "signature" else config["secret"])
    return render(
        request,
        "federation/post.html",
        {"address": audience, "assertion": token, "person": PEOPLE[person]},
    )
