"""Tokens of MyTARDIS 5.0: access by an address that holds one."""

from datetime import date

from ..models.typed_acl import Token


class TokenGroupProvider:
    """The tokens that a visitor has shown and that are still good."""

    name = "token_group"

    def getGroups(self, user):  # noqa: N802 (the real host's name)
        return list(
            Token.objects.filter(token__in=getattr(user, "allowed_tokens", []), expiry_date__gte=date.today())
        )
