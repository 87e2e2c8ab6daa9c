"""What docs/rapid-connect.md promises is what the code does."""

import re
from pathlib import Path

from tardis_imagetrove.signin import checks, refusals, session
from tardis_imagetrove.signin.openid import checks as openid_checks
from tardis_imagetrove.signin.openid import config as openid_config
from tardis_imagetrove.signin.openid import views as openid_views
from tardis_imagetrove.signin.rapid_connect import checks as rapid_connect_checks
from tardis_imagetrove.signin.rapid_connect import config

from .test_sign_in import all_refusals

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "rapid-connect.md").read_text(encoding="utf-8")
OPENID = (DOCS / "openid-connect.md").read_text(encoding="utf-8")


def test_every_refusal_is_listed_with_its_status():
    listed = dict(re.findall(r"^\| `((?:RC|ID|OIDC)-\w+)` \| (\d+) \|", TEXT + OPENID, re.MULTILINE))
    assert listed == {kind.code: str(kind.status) for kind in all_refusals(refusals.SignInRefused)}


def test_every_check_is_listed():
    source = "".join(
        Path(module.__file__).read_text(encoding="utf-8")
        for module in (checks, rapid_connect_checks, openid_checks)
    )
    assert set(re.findall(r"^\| `(imagetrove\.W\d+)` \|", TEXT + OPENID, re.MULTILINE)) == set(
        re.findall(r'"(imagetrove\.W\d+)"', source)
    )


def test_the_lines_of_settings_are_those_that_the_checks_ask_for():
    for line in (checks.ROOT_URLS, checks.SIGN_IN_VIEW, session.BACKEND):
        assert f'"{line}"' in TEXT
    assert f"0 to {config.MAX_LEEWAY}; {config.DEFAULT_LEEWAY} if not given" in TEXT
    for line in (checks.ROOT_URLS, checks.SIGN_IN_VIEW, session.BACKEND):
        assert f'"{line}"' in OPENID


def test_every_key_of_a_provider_is_listed():
    assert set(re.findall(r"^\| `(\w+)` \|", OPENID, re.MULTILINE)) == openid_config.KEYS
    for ours, theirs in openid_config.DEFAULT_CLAIMS.items():
        assert f"`{ours}` (`{theirs}`)" in OPENID
    assert f"within {openid_views.MAX_AGE // 60} minutes" in OPENID
    assert f"{openid_config.LEEWAY} seconds" in OPENID
