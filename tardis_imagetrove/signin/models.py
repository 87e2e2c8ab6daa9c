"""What signing in keeps: identities and their accounts, people named on a project in advance, assertions used."""

from __future__ import annotations

import hashlib

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import models


def digest(*parts: str) -> str:
    """SHA-256 in hexadecimal: an exact key of texts of any length, on databases that ignore case as well."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


class FederatedIdentity(models.Model):
    """One person as one provider names them, and the account that is theirs; an account may have several."""

    key = models.CharField(
        max_length=64, unique=True, editable=False, help_text="Digest of issuer and subject."
    )
    issuer = models.CharField(max_length=255, help_text="The provider: https://rapid.aaf.edu.au.")
    subject = models.CharField(
        "identifier",
        max_length=400,
        help_text="Names the person for good: the targeted ID of Rapid Connect "
        "(https://rapid.aaf.edu.au!https://HOST/rc/!…), the sub of OpenID Connect.",
    )
    shared_token = models.CharField(
        max_length=255,
        blank=True,
        editable=False,
        db_index=True,
        help_text="auEduPersonSharedToken: the same at every provider of one federation.",
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        verbose_name="account",
        help_text="Whose account this identity signs in to. Empty while a person waits because an account here "
        "has the same mail address or shared token: choose it here if it is theirs.",
    )
    mail = models.CharField(max_length=254, blank=True, help_text="As the provider last said.")
    mail_verified = models.BooleanField(
        default=True, editable=False, help_text="Whether the provider vouches for the mail address."
    )
    name = models.CharField(max_length=301, blank=True, help_text="As the provider last said.")
    first_seen = models.DateTimeField(auto_now_add=True)
    last_seen = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "tardis_imagetrove"
        ordering = ("-last_seen", "-id")
        verbose_name_plural = "federated identities"

    def __str__(self) -> str:
        return self.name or self.mail or self.subject

    def save(self, *args: object, **kwargs: object) -> None:
        self.key = digest(self.issuer, self.subject)
        super().save(*args, **kwargs)

    def clean(self) -> None:
        same = FederatedIdentity.objects.filter(key=digest(self.issuer, self.subject)).exclude(pk=self.pk)
        if same.exists():
            raise ValidationError("This identity is here already: change its account instead.")


class ProjectMember(models.Model):
    """Somebody who gets a project's group when they next sign in through a provider."""

    group = models.ForeignKey(
        Group, on_delete=models.CASCADE, related_name="+", help_text="The project's group."
    )
    mail = models.EmailField(
        blank=True, help_text="As the person's institution has it; case does not matter."
    )
    targeted_id = models.CharField(
        "identifier",
        max_length=700,
        blank=True,
        help_text="Instead of the mail address: the targeted ID of Rapid Connect, or ISSUER!SUB of OpenID Connect.",
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Who came.",
    )
    # Kept when the account goes: an entry works once, so that who is taken out of a group stays out.
    joined = models.DateTimeField(null=True, blank=True, editable=False)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "tardis_imagetrove"
        ordering = ("group", "mail", "targeted_id")
        verbose_name = "person named on a project"
        verbose_name_plural = "people named on projects"

    def __str__(self) -> str:
        return f"{self.mail or self.targeted_id}: {self.group}"

    def save(self, *args: object, **kwargs: object) -> None:
        # From scripts as well: sign-in compares with what clean() has made of the address.
        self.full_clean()
        super().save(*args, **kwargs)

    def clean(self) -> None:
        # Not before it is known to be plain: the lower case of the Kelvin sign is an ordinary k.
        self.mail = self.mail.strip().lower() if self.mail.isascii() else self.mail.strip()
        self.targeted_id = self.targeted_id.strip()
        if bool(self.mail) == bool(self.targeted_id):
            raise ValidationError("Name the person by the mail address or by the identifier: one of the two.")
        if not self.mail.isascii():
            # Letters that look alike, or are alike in one case only, must not open a project.
            raise ValidationError({"mail": "Only ASCII addresses are supported: use the identifier instead."})


class SpentAssertion(models.Model):
    """An assertion that signed somebody in; it never does again."""

    key = models.CharField(max_length=64, unique=True, help_text="Digest of issuer and jti.")
    forget_after = models.DateTimeField(db_index=True, help_text="From then on its own expiry refuses it.")

    class Meta:
        app_label = "tardis_imagetrove"

    def __str__(self) -> str:
        return self.key[:12]
