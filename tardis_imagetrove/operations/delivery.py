"""Sending a subscriber one message: a mail, or a signed POST."""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

from django.core.mail import EmailMessage, get_connection

from ..errors import PermanentError, RetriableError
from ..models import Notice, Subscription

#: Seconds that a mail server or a webhook has.
SECONDS = 20.0
SIGNATURE = "X-ImageTrove-Signature"
TIMESTAMP = "X-ImageTrove-Timestamp"


def send(subscription: Subscription, notices: Sequence[Notice], address_of_site: str) -> None:
    """Send notices as one message.

    Raises:
        RetriableError: it cannot be delivered now.
        PermanentError: it never will be.
    """
    try:
        if subscription.mail:
            _mail(subscription, notices, address_of_site)
        else:
            _post(subscription, notices, address_of_site)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise RetriableError(f"{type(error).__name__}: {error}") from error


def _mail(subscription: Subscription, notices: Sequence[Notice], address_of_site: str) -> None:
    first = notices[0].text.partition("\n")[0]
    subject = first if len(notices) == 1 else f"{len(notices)} notices; the first: {first}"
    body = "\n\n".join(
        "\n".join(filter(None, (notice.text, link_to(notice, address_of_site)))) for notice in notices
    )
    foot = f"-- \nImageTrove at {address_of_site}. Subscription: {subscription.name}."
    message = EmailMessage(
        f"[ImageTrove] {' '.join(subject.split())[:200]}",
        f"{body}\n\n{foot}\n",
        to=[subscription.mail],
        connection=get_connection(timeout=SECONDS),
    )
    message.send()


def _post(subscription: Subscription, notices: Sequence[Notice], address_of_site: str) -> None:
    body = json.dumps(
        {
            "site": address_of_site,
            "subscription": subscription.name,
            "notices": [
                {
                    "id": notice.pk,
                    "kind": notice.kind,
                    "at": notice.created.isoformat(),
                    "text": notice.text,
                    "link": link_to(notice, address_of_site),
                }
                for notice in notices
            ],
        }
    ).encode()
    now = str(int(time.time()))
    request = urllib.request.Request(
        subscription.webhook,
        data=body,
        headers={
            "Content-Type": "application/json",
            "User-Agent": "ImageTrove",
            TIMESTAMP: now,
            SIGNATURE: signature(subscription.secret, now, body),
        },
        method="POST",
    )
    try:
        with _opener.open(request, timeout=SECONDS) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as error:
        if error.code == 410:  # gone for good
            raise PermanentError("the webhook answers 410 Gone") from error
        raise RetriableError(f"the webhook answers {error.code}") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the notice to an address that nobody has entered."""

    def redirect_request(self, *_arguments: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What a receiver computes and compares: HMAC-SHA256 over the timestamp, a dot, and the body."""
    return "sha256=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def link_to(notice: Notice, address_of_site: str) -> str:
    """Where more can be read: for researchers the dataset, else the series on the board; empty if there is none."""
    series = notice.series
    if series is None:
        return ""
    if notice.kind == Subscription.Kind.READY:
        return f"{address_of_site}/dataset/{series.dataset_key.dataset_id}" if series.dataset_key else ""
    return f"{address_of_site}/apps/tardis-imagetrove/series/{series.pk}/"
