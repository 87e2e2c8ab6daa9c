"""The page that the federation posts to."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

from django.core.exceptions import SuspiciousOperation
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.multipartparser import MultiPartParserError
from django.http.request import UnreadablePostError
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from .. import next_page, pages, refusals, session
from ..identity import Person
from ..jws import MAX_CHARACTERS
from ..models import SpentAssertion, digest
from . import config
from .assertion import Assertion, verify

MAX_BODY = 4 * MAX_CHARACTERS
"""Bytes of a posted form, which are not even read beyond it."""


# The form comes from the federation's site and can bring no token of ours: the signature stands in for it.
@csrf_exempt
@never_cache
@xframe_options_deny
@sensitive_post_parameters("assertion")
def receive_assertion(request: HttpRequest) -> HttpResponse:
    """Take the federation's posted ``assertion`` and begin a session, or say why not."""
    try:
        token = _posted_assertion(request)
        session.begin(request, lambda: _person(token))
    except refusals.SignInRefused as refusal:
        return pages.refuse(request, refusal)
    response = HttpResponseRedirect(next_page.recall(request))
    next_page.forget(response)
    return response


@sensitive_variables("token")
def _person(token: str) -> Person:
    assertion = verify(token, config.current(), time.time())
    spend(assertion)
    return Person(
        issuer=assertion.issuer,
        subject=assertion.targeted_id,
        mail=assertion.mail,
        given_name=assertion.given_name,
        family_name=assertion.family_name,
        targeted_id=assertion.targeted_id,
        shared_token=assertion.shared_token,
    )


def spend(assertion: Assertion) -> None:
    """Use up ``assertion``; of two that arrive at once the database lets one through.

    Raises:
        Replayed: it was used before.
    """
    # The longest leeway, not today's: a longer one tomorrow must not bring it back.
    forget_after = datetime.fromtimestamp(assertion.expires, tz=timezone.utc) + timedelta(
        seconds=config.MAX_LEEWAY
    )
    try:
        with transaction.atomic():
            SpentAssertion.objects.create(
                key=digest(assertion.issuer, assertion.jti), forget_after=forget_after
            )
    except IntegrityError:
        raise refusals.Replayed(f"jti {ascii(assertion.jti)[:80]} was used before") from None


@sensitive_variables("tokens")
def _posted_assertion(request: HttpRequest) -> str:
    if request.method != "POST":
        raise refusals.NothingPosted(f"{request.method} instead of POST")
    try:
        length = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    if length > MAX_BODY:
        raise refusals.TooLarge(f"{length} bytes posted")
    try:
        tokens = request.POST.getlist("assertion")
    # A form that is too large, broken, cut off, or in an encoding that is none.
    except (SuspiciousOperation, MultiPartParserError, UnreadablePostError, LookupError, ValueError) as error:
        raise refusals.NothingPosted(f"the form cannot be read ({type(error).__name__})") from None
    if not any(tokens):
        raise refusals.NothingPosted("the form has no assertion")
    if len(tokens) > 1:
        raise refusals.Malformed(f"the form has {len(tokens)} assertions")
    return tokens[0]
