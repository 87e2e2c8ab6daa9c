"""Why a sign-in is refused: one class a reason, with its reference code, its status and what the person can do."""

from __future__ import annotations

from ..errors import PermanentError

TRY_AGAIN = "Go back to the sign-in page and sign in again."
TELL_ADMINISTRATOR = "Tell the administrators of this site, and give them the reference below."


def first_line(error: Exception) -> str:
    """A database's error for the log: PostgreSQL goes on with the values, which are somebody's name and address."""
    return str(error).partition("\n")[0]


class SignInRefused(PermanentError):
    """Base of every refusal.

    Its text is for the log and holds neither the assertion nor anybody's name or address. The class attributes are for the
    person: ``code`` is stable and documented, ``status`` is 400 for what is no assertion at
    all and 403 for what is one but does not hold.
    """

    code: str
    status = 403
    title: str
    advice: str


class SwitchedOff(SignInRefused):
    code = "RC-OFF"
    title = "Signing in through the federation is switched off here"
    advice = "Use local sign-in, or ask the administrators of this site."


class NotSetUp(SignInRefused):
    code = "RC-SETUP"
    title = "Signing in through the federation is not set up here"
    advice = TELL_ADMINISTRATOR


class NothingPosted(SignInRefused):
    code = "RC-EMPTY"
    status = 400
    title = "Your institution's sign-in did not reach us"
    advice = f"This address only accepts what the federation sends after you have signed in. {TRY_AGAIN}"


class TooLarge(SignInRefused):
    code = "RC-SIZE"
    status = 400
    title = "What arrived is too large to be a sign-in"
    advice = TRY_AGAIN


class Malformed(SignInRefused):
    code = "RC-FORMAT"
    status = 400
    title = "What arrived cannot be read as a sign-in"
    advice = f"{TRY_AGAIN} If it happens again, tell the administrators of this site."


class WrongAlgorithm(SignInRefused):
    code = "RC-ALGORITHM"
    title = "This sign-in is not signed the way the federation signs"
    advice = TELL_ADMINISTRATOR


class WrongSignature(SignInRefused):
    code = "RC-SIGNATURE"
    title = "The signature of this sign-in is not the federation's"
    advice = TELL_ADMINISTRATOR


class WrongClaim(SignInRefused):
    code = "RC-CLAIM"
    status = 400
    title = "Something is missing from this sign-in"
    advice = TELL_ADMINISTRATOR


class WrongIssuer(SignInRefused):
    code = "RC-ISSUER"
    title = "This sign-in comes from another federation"
    advice = TELL_ADMINISTRATOR


class WrongAudience(SignInRefused):
    code = "RC-AUDIENCE"
    title = "This sign-in was made for another site"
    advice = f"Start from this site's own sign-in page. {TELL_ADMINISTRATOR}"


class WrongType(SignInRefused):
    code = "RC-TYPE"
    title = "What arrived is not a sign-in"
    advice = TELL_ADMINISTRATOR


class TooEarly(SignInRefused):
    code = "RC-EARLY"
    title = "This sign-in is not valid yet"
    advice = (
        "The clock of this site and the federation's disagree. Try again in a minute; "
        "if it stays so, tell the administrators of this site."
    )


class Expired(SignInRefused):
    code = "RC-EXPIRED"
    title = "This sign-in has expired"
    advice = f"A sign-in is good for two minutes. {TRY_AGAIN}"


class TooLongLived(SignInRefused):
    code = "RC-LIFETIME"
    title = "This sign-in would be valid for too long"
    advice = TELL_ADMINISTRATOR


class Replayed(SignInRefused):
    code = "RC-REPLAY"
    title = "This sign-in has been used already"
    advice = (
        "Each one works once, so reloading the page or pressing Back cannot repeat it. "
        "If you are signed in already, you still are: continue."
    )


class NoIdentity(SignInRefused):
    code = "RC-PERSON"
    title = "Your institution did not say who you are"
    advice = (
        "We need the identifier called eduPersonTargetedID. Ask the help desk of your institution to release "
        "it to this service."
    )


class Inactive(SignInRefused):
    code = "ID-INACTIVE"
    title = "Your account here is not active"
    advice = (
        "If you should have access, ask the administrators of this site, and give them the reference below."
    )


class NeedsLinking(SignInRefused):
    code = "ID-LINK"
    title = "An account here may be yours already"
    advice = (
        "It has your mail address or your federation's identifier for you. An administrator has to confirm that it is "
        "yours before you can use it this way. Ask them to link it, and give them the reference below."
    )


class NoAccount(SignInRefused):
    code = "ID-ACCOUNT"
    title = "Your account here could not be made"
    advice = TELL_ADMINISTRATOR


class Busy(SignInRefused):
    """The database did not answer: nothing is wrong with the sign-in, and it is not used up."""

    code = "RC-BUSY"
    status = 503
    title = "The site is busy"
    advice = "You were not signed in. Wait a minute, then sign in again."


# OpenID Connect


class NoSuchProvider(SignInRefused):
    code = "OIDC-UNKNOWN"
    status = 404
    title = "There is no such way to sign in here"
    advice = "Choose one on the sign-in page."


class ProviderNotSetUp(SignInRefused):
    code = "OIDC-SETUP"
    title = "Signing in through this institution is not set up here"
    advice = TELL_ADMINISTRATOR


class ProviderAway(SignInRefused):
    code = "OIDC-AWAY"
    status = 503
    title = "Your institution's sign-in service does not answer"
    advice = "You were not signed in. Wait a few minutes, then sign in again."


class ProviderUnusable(SignInRefused):
    code = "OIDC-ANSWER"
    status = 503
    title = "Your institution's sign-in service gives answers that we cannot use"
    advice = TELL_ADMINISTRATOR


class NoAnswer(SignInRefused):
    code = "OIDC-EMPTY"
    status = 400
    title = "Nothing arrived from your institution's sign-in"
    advice = f"Your institution leads back to this address after you have signed in there. {TRY_AGAIN}"


class UnknownState(SignInRefused):
    code = "OIDC-STATE"
    title = "This sign-in was not begun in this browser, or too long ago"
    advice = (
        "Each sign-in works once, within 15 minutes, so reloading the page or pressing Back cannot repeat it. "
        f"This browser must accept cookies of this site. {TRY_AGAIN}"
    )


class Denied(SignInRefused):
    code = "OIDC-DENIED"
    title = "Your institution did not sign you in"
    advice = f"You may have cancelled, or your account there may not be allowed to come here. {TRY_AGAIN}"


class RequestRefused(SignInRefused):
    code = "OIDC-REQUEST"
    title = "Your institution does not accept sign-ins from this site"
    advice = TELL_ADMINISTRATOR


class CodeRefused(SignInRefused):
    code = "OIDC-CODE"
    title = "Your institution does not confirm this sign-in"
    advice = TRY_AGAIN


class ClientRefused(SignInRefused):
    code = "OIDC-CLIENT"
    title = "Your institution does not recognise this site"
    advice = TELL_ADMINISTRATOR


class BadIDToken(SignInRefused):
    code = "OIDC-FORMAT"
    title = "Your institution's confirmation cannot be read"
    advice = TELL_ADMINISTRATOR


class IDTokenAlgorithm(SignInRefused):
    code = "OIDC-ALGORITHM"
    title = "Your institution's confirmation is not signed in a way that we accept"
    advice = TELL_ADMINISTRATOR


class UnknownKey(SignInRefused):
    code = "OIDC-KEY"
    title = "Your institution's confirmation is signed with an unknown key"
    advice = (
        f"Your institution may have changed its keys just now: try again in a minute. {TELL_ADMINISTRATOR}"
    )


class IDTokenSignature(SignInRefused):
    code = "OIDC-SIGNATURE"
    title = "The signature of this sign-in is not your institution's"
    advice = TELL_ADMINISTRATOR


class IDTokenClaim(SignInRefused):
    code = "OIDC-CLAIM"
    title = "Something is missing from your institution's confirmation"
    advice = TELL_ADMINISTRATOR


class IDTokenIssuer(SignInRefused):
    code = "OIDC-ISSUER"
    title = "This sign-in comes from another institution"
    advice = TELL_ADMINISTRATOR


class IDTokenAudience(SignInRefused):
    code = "OIDC-AUDIENCE"
    title = "Your institution's confirmation is for another site"
    advice = TELL_ADMINISTRATOR


class IDTokenNonce(SignInRefused):
    code = "OIDC-NONCE"
    title = "Your institution's confirmation belongs to another sign-in"
    advice = TRY_AGAIN


class IDTokenExpired(SignInRefused):
    code = "OIDC-EXPIRED"
    title = "Your institution's confirmation has expired"
    advice = f"{TRY_AGAIN} If it happens again, the clocks disagree: tell the administrators of this site."


class IDTokenEarly(SignInRefused):
    code = "OIDC-EARLY"
    title = "Your institution's confirmation is not valid yet"
    advice = (
        "The clock of this site and your institution's disagree. Try again in a minute; if it happens again, "
        "tell the administrators of this site."
    )


class NoSubject(SignInRefused):
    code = "OIDC-PERSON"
    title = "Your institution's confirmation does not say who you are"
    advice = TELL_ADMINISTRATOR


class StillBusy(SignInRefused):
    """The database did not answer."""

    code = "OIDC-BUSY"
    status = 503
    title = "This site is busy"
    advice = "You were not signed in. Wait a minute, then begin again at the sign-in page."
