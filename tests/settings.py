"""Settings of the tests: the embedded host, or a real MyTARDIS when MYTARDIS_HOME names its folder.

The processes that a test starts (receiver, worker) read this module too, and by the environment
they share the test's database, spool and broker.
"""

import importlib
import json
import os
import sys

# Brings the folder of state, the broker and the database of the tests in either case.
from devhost import settings as devhost

if "MYTARDIS_HOME" in os.environ:
    sys.path[:] = [folder for folder in sys.path if folder != str(devhost.DEVHOST_DIR)]
    sys.path.insert(0, os.environ["MYTARDIS_HOME"])
    for name in [name for name in sys.modules if name.split(".")[0] == "tardis"]:
        del sys.modules[name]
    try:
        host = importlib.import_module("tardis.settings")
    except ModuleNotFoundError:
        host = importlib.import_module("tardis.test_settings")
else:
    host = devhost

globals().update({name: getattr(host, name) for name in dir(host) if name.isupper()})

if host is not devhost:
    # A site that has the app already is tried as it is.
    INSTALLED_APPS = tuple(dict.fromkeys((*host.INSTALLED_APPS, "tardis_imagetrove")))
    # 5.0 makes no user without it, and ships without it.
    DEFAULT_PERMISSIONS = getattr(host, "DEFAULT_PERMISSIONS", [])
    # A manifest knows only what was collected.
    STATICFILES_STORAGE = "django.contrib.staticfiles.storage.StaticFilesStorage"
    DATABASES = devhost.DATABASES
    CACHES = {"default": devhost.CACHES["default"]}
    IMAGETROVE = devhost.IMAGETROVE
    DEFAULT_STORAGE_BASE_DIR = devhost.DEFAULT_STORAGE_BASE_DIR
    METADATA_STORE_PATH = devhost.METADATA_STORE_PATH
    # Workers of the tests' own, as MyTARDIS 4.7 (with a namespace) or 5.0 (without) names the settings.
    prefix = "CELERY_" if hasattr(host, "CELERY_BROKER_URL") else ""
    globals()[f"{prefix}BROKER_URL"] = devhost.CELERY_BROKER_URL
    globals()[f"{prefix}BROKER_TRANSPORT_OPTIONS"] = getattr(devhost, "CELERY_BROKER_TRANSPORT_OPTIONS", {})
    for name in ("CELERY_TASK_ALWAYS_EAGER", "CELERY_ALWAYS_EAGER", "TASK_ALWAYS_EAGER"):
        globals().pop(name, None)
    # What the app's documentation has an administrator add.
    ROOT_URLCONF = devhost.ROOT_URLCONF
    AUTHENTICATION_BACKENDS = (
        "tardis_imagetrove.signin.backend.FederatedBackend",
        *host.AUTHENTICATION_BACKENDS,
    )
    LOGIN_VIEWS = {**getattr(host, "LOGIN_VIEWS", {}), host.SITE_ID: devhost.LOGIN_VIEWS[devhost.SITE_ID]}

# What guards a password takes its time, at every user that a test makes.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if "IMAGETROVE_TEST_BROKER_OPTIONS" in os.environ:
    prefix = "CELERY_" if hasattr(host, "CELERY_BROKER_URL") else ""
    globals()[f"{prefix}BROKER_TRANSPORT_OPTIONS"] = json.loads(os.environ["IMAGETROVE_TEST_BROKER_OPTIONS"])
if "sqlite" in DATABASES["default"]["ENGINE"]:
    DATABASES["default"]["TEST"] = {"NAME": str(devhost.STATE / "test.sqlite3")}
if "IMAGETROVE_TEST_DATABASE" in os.environ:
    DATABASES["default"]["NAME"] = os.environ["IMAGETROVE_TEST_DATABASE"]
# Short, so that a test of what goes on after trouble need not wait a minute for it.
IMAGETROVE |= {"QUIET_SECONDS": 1, "STALL_SECONDS": 4, "RETRY_SECONDS": 1, "RETRY_SECONDS_MAX": 4}
IMAGETROVE |= json.loads(os.environ.get("IMAGETROVE_TEST_SETTINGS", "{}"))
