"""Answers that several views give."""

import re

from django.shortcuts import render

EXPERIMENT_PAGE = re.compile(r"https?://([^/]+)/experiment/view/(\d+)/")


def render_response_index(request, *args, **kwargs):
    return render(request, *args, **kwargs)


def render_error_message(request, message, status=400):
    return render(request, "tardis_portal/user_error.html", {"error_message": message}, status=status)


def return_response_not_found(request):
    return render(request, "404.html", {}, status=404)


def return_response_error(request):
    """403, also for a visitor who has not signed in."""
    return render(request, "403.html", {}, status=403)


def get_experiment_referer(request, dataset_id):
    """The experiment from whose page the visitor came, if it holds the dataset; else None."""
    from .auth.decorators import get_accessible_experiments_for_dataset

    came_from = EXPERIMENT_PAGE.match(request.META.get("HTTP_REFERER", ""))
    if came_from is None or came_from[1] != request.get_host():
        return None
    return get_accessible_experiments_for_dataset(request, dataset_id).filter(pk=came_from[2]).first()
