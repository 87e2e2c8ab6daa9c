"""Who may see, download and change what: questions about a request, and decorators that ask them."""

from functools import wraps

from django.http import HttpRequest, HttpResponseRedirect

from ..flavour import TYPED
from ..shortcuts import return_response_error

if TYPED:
    from .typed_rules import *  # noqa: F403
    from .typed_rules import has_access, has_download_access, has_ownership, has_write
else:
    from .object_rules import *  # noqa: F403
    from .object_rules import (
        has_datafile_access,
        has_datafile_download_access,
        has_dataset_access,
        has_dataset_download_access,
        has_dataset_ownership,
        has_dataset_write,
        has_experiment_access,
        has_experiment_download_access,
        has_experiment_ownership,
        has_experiment_write,
    )

# What the host's own pages ask, whatever the flavour: may_view(request, dataset_id, "dataset").
if TYPED:
    may_view, may_download, may_change, owns = has_access, has_download_access, has_write, has_ownership
else:

    def _by_kind(**questions):
        def ask(request, pk, kind):
            return questions[kind](request, pk)

        return ask

    may_view = _by_kind(
        experiment=has_experiment_access, dataset=has_dataset_access, datafile=has_datafile_access
    )
    may_download = _by_kind(
        experiment=has_experiment_download_access,
        dataset=has_dataset_download_access,
        datafile=has_datafile_download_access,
    )
    may_change = _by_kind(experiment=has_experiment_write, dataset=has_dataset_write)
    owns = _by_kind(experiment=has_experiment_ownership, dataset=has_dataset_ownership)


def _required(question, argument, sign_in=False, on_methods=False):
    """A decorator of views: 403 unless `question(request, <the keyword argument>)` is answered yes.

    With `sign_in` a visitor goes to the login page instead, and an administrator may pass. As on the
    real host only those with `on_methods` also decorate methods, whose second argument is the request.
    """

    def decorator(view):
        @wraps(view)
        def asked(*args, **kwargs):
            request = args[1] if on_methods and not isinstance(args[0], HttpRequest) else args[0]
            if sign_in and not request.user.is_authenticated:
                return HttpResponseRedirect(f"/login?next={request.path}")
            passes = sign_in and request.user.is_superuser
            if not (passes or question(request, kwargs[argument])):
                return return_response_error(request)
            return view(*args, **kwargs)

        return asked

    return decorator


def _of(question, kind):
    return lambda request, pk: question(request, pk, kind)


experiment_ownership_required = _required(_of(owns, "experiment"), "experiment_id", sign_in=True)
experiment_access_required = _required(_of(may_view, "experiment"), "experiment_id", on_methods=True)
dataset_access_required = _required(_of(may_view, "dataset"), "dataset_id", on_methods=True)
dataset_download_required = _required(_of(may_download, "dataset"), "dataset_id")
