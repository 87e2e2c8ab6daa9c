"""Settings of the embedded host: SQLite, a broker without a server, and all its state under one folder.

Environment: DEVHOST_FLAVOUR (4.7, or 5.0: typed access rights and projects, as in the MyTARDIS of UoA-eResearch),
DEVHOST_STATE (folder of everything that is written; default `.demo/` in the repository),
DEVHOST_DB=postgresql with the usual PG* variables, DEVHOST_BROKER (URL of another Celery broker).
"""

import atexit
import os
import shutil
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from kombu import Exchange, Queue

DEVHOST_FLAVOUR = os.environ.get("DEVHOST_FLAVOUR", "4.7")
if DEVHOST_FLAVOUR not in ("4.7", "5.0"):
    raise ImproperlyConfigured(f"DEVHOST_FLAVOUR is {DEVHOST_FLAVOUR!r}: it must be 4.7 or 5.0")

DEVHOST_DIR = Path(__file__).resolve().parent
REPOSITORY = DEVHOST_DIR.parent
for _folder in (str(REPOSITORY), str(DEVHOST_DIR)):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)


def _remove(folder, owner):
    """Remove a test run's folder at its end; a forked child's end is not it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _folder_of_state():
    """The folder of all state. A test run has its own, and so has each of its parallel workers; child processes share it."""
    named = os.environ.get("DEVHOST_STATE")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if named and os.environ.get("DEVHOST_STATE_WORKER", "") == worker:
        return Path(named).resolve()
    if named:
        made = Path(named, worker).resolve()
    elif "pytest" in sys.modules:  # PYTEST_VERSION exists from pytest 8.2 on only
        made = Path(tempfile.mkdtemp(prefix="devhost-"))
        atexit.register(_remove, made, os.getpid())
    else:
        return REPOSITORY / (".demo" if DEVHOST_FLAVOUR == "4.7" else f".demo-{DEVHOST_FLAVOUR}")
    os.environ |= {"DEVHOST_STATE": str(made), "DEVHOST_STATE_WORKER": worker}
    return made


STATE = _folder_of_state()


def _in_state(*parts):
    folder = STATE.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


SECRET_KEY = "embedded-host-for-development-only-never-for-real-data"
DEBUG = os.environ.get("DEVHOST_DEBUG", "1") != "0"
ALLOWED_HOSTS = ["*"]
INTERNAL_IPS = ("127.0.0.1",)
SITE_ID = 1
SITE_TITLE = "MyTardis (embedded host)"
DEFAULT_INSTITUTION = "Monash University"
SUPPORT_EMAIL = "support@example.com"

TARDIS_APP_ROOT = "tardis.apps"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.sites",
    "django.contrib.staticfiles",
    "django.contrib.admin",
    "django.contrib.humanize",
    "tastypie",
    "tardis.tardis_portal",
    "tardis_imagetrove",
]
if DEVHOST_FLAVOUR == "5.0":
    INSTALLED_APPS.insert(-1, "tardis.apps.projects")
    # Access by the rights of experiments alone, as 5.0 ships; False: each dataset and file has its own.
    ONLY_EXPERIMENT_ACLS = True
    PUBLIC_USER_ID = 1
    DEFAULT_PERMISSIONS = []

MIDDLEWARE = [
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "tardis.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.static",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.debug",
                "tardis.tardis_portal.context_processors.global_contexts",
                "tardis.tardis_portal.context_processors.user_details_processor",
                "tardis.tardis_portal.context_processors.user_menu_processor",
            ],
        },
    }
]

if os.environ.get("DEVHOST_DB", "sqlite") == "postgresql":
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ.get("PGDATABASE", "devhost"),
            "USER": os.environ.get("PGUSER", ""),
            "PASSWORD": os.environ.get("PGPASSWORD", ""),
            "HOST": os.environ.get("PGHOST", ""),
            "PORT": os.environ.get("PGPORT", ""),
        }
    }
else:
    # The web server, the workers and the receiver write to one file: the backend waits instead of failing.
    DATABASES = {
        "default": {
            "ENGINE": "devhost.sqlite_shared",
            "NAME": str(Path(_in_state()) / "db.sqlite3"),
            "OPTIONS": {"timeout": 30},
        }
    }
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": _in_state("cache"),
    },
}

USE_TZ = True
TIME_ZONE = "Australia/Melbourne"
IS_DST = True
LANGUAGE_CODE = "en-us"
USE_I18N = True
STATIC_URL = "/static/"
STATIC_ROOT = str(STATE / "static")
MEDIA_URL = ""

# Storage
DEFAULT_STORAGE_BASE_DIR = _in_state("store")
FILE_STORE_PATH = DEFAULT_STORAGE_BASE_DIR
MEDIA_ROOT = DEFAULT_STORAGE_BASE_DIR
METADATA_STORE_PATH = _in_state("metadata")
REQUIRE_DATAFILE_CHECKSUMS = True
REQUIRE_DATAFILE_SIZES = True
COMPUTE_MD5 = True
COMPUTE_SHA512 = False
REUSE_DATASET_STORAGE_BOX = True

# Sign-in
AUTH_PROVIDERS = (("localdb", "Local DB", "tardis.tardis_portal.auth.localdb_auth.DjangoAuthBackend"),)
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "tardis.tardis_portal.auth.authorisation.ACLAwareBackend",
]
NEW_USER_INITIAL_GROUPS = []
AUTOGENERATE_API_KEY = False
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/"
RAPID_CONNECT_ENABLED = False
RAPID_CONNECT_CONFIG = {
    "secret": "CHANGE_ME",
    "authnrequest_url": "",
    "iss": "https://rapid.test.aaf.edu.au",
    "aud": "https://example.com/rc/",
}

OPENID_CONNECT_PROVIDERS = []

# Pages an app may replace
INDEX_VIEWS = {}
LOGIN_VIEWS = {}
DATASET_VIEWS = [("http://example.edu/schema/2$", "tardis_imagetrove.views.DatasetPage")]
EXPERIMENT_VIEWS = []
USER_MENU_MODIFIERS = [
    "tardis_imagetrove.menus.add_board",
    "tardis_imagetrove.menus.add_my_scans",
    "tardis_imagetrove.menus.add_scans",
]
RENDER_IMAGE_SIZE_LIMIT = 0
RENDER_IMAGE_DATASET_SIZE_LIMIT = 0
MAX_IMAGES_IN_CAROUSEL = 100
SHOW_DATASET_THUMBNAILS = True
DATASET_ORDERING = "description"
DEFAULT_ARCHIVE_FORMATS = ["tar"]

# Celery
if os.environ.get("DEVHOST_BROKER"):
    CELERY_BROKER_URL = os.environ["DEVHOST_BROKER"]
else:
    # Of kombu's transports without a server this one alone delivers every message once: `filesystem://` reads
    # messages that are half written. One of a killed worker is lost here; the watcher queues its work again.
    CELERY_BROKER_URL = f"sqla+sqlite:///{_in_state('broker')}/broker.sqlite3"
    CELERY_BROKER_TRANSPORT_OPTIONS = {"connect_args": {"timeout": 30}}
CELERY_RESULT_BACKEND = "file://" + _in_state("broker", "results")
CELERY_IMPORTS = ("tardis.tardis_portal.tasks",)
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
MAX_TASK_PRIORITY = 10
DEFAULT_TASK_PRIORITY = 5
CELERY_TASK_DEFAULT_QUEUE = "celery"
CELERY_TASK_QUEUES = (
    Queue(
        "celery",
        Exchange("celery"),
        routing_key="celery",
        queue_arguments={"x-max-priority": MAX_TASK_PRIORITY},
    ),
)
CELERY_BEAT_SCHEDULE = {
    "verify-files": {
        "task": "tardis_portal.verify_dfos",
        "schedule": timedelta(seconds=300),
        "kwargs": {"priority": DEFAULT_TASK_PRIORITY},
    },
}
CELERY_BEAT_SCHEDULE_FILENAME = str(STATE / "celerybeat-schedule")

# The app under development
IMAGETROVE = {
    "SPOOL": _in_state("spool"),
    # Short, for whoever watches.
    "QUIET_SECONDS": float(os.environ.get("DEVHOST_QUIET_SECONDS", "5")),
}

# Signing in through the federation, as docs/rapid-connect.md has it for a MyTARDIS
ROOT_URLCONF = "tardis_imagetrove.signin.root_urls"
AUTHENTICATION_BACKENDS.insert(0, "tardis_imagetrove.signin.backend.FederatedBackend")
LOGIN_VIEWS = {SITE_ID: "tardis_imagetrove.signin.views.sign_in"}

# A stand-in for the federation, where this variable names the host's own address (http://127.0.0.1:8000)
DEVHOST_FEDERATION = os.environ.get("DEVHOST_FEDERATION", "")
if DEVHOST_FEDERATION:
    from devhost.federation.setup import openid_connect_provider, rapid_connect_config

    INSTALLED_APPS.append("devhost.federation")
    RAPID_CONNECT_ENABLED = True
    RAPID_CONNECT_CONFIG = rapid_connect_config(DEVHOST_FEDERATION, STATE)
    OPENID_CONNECT_PROVIDERS = [openid_connect_provider(DEVHOST_FEDERATION, STATE)]
    ROOT_URLCONF = "devhost.federation.urls"
