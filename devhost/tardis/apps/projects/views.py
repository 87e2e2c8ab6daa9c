"""What a project shows."""

from django.conf import settings
from tardis.tardis_portal.auth.decorators import may_view
from tardis.tardis_portal.models import Experiment
from tardis.tardis_portal.shortcuts import render_response_index, return_response_error


def project_recent_experiments(request, project_id):
    if not may_view(request, project_id, "project"):
        return return_response_error(request)
    # As on the real host: with rights of experiments alone, all are named to whoever sees one.
    if settings.ONLY_EXPERIMENT_ACLS:
        experiments = Experiment.objects.all()
    else:
        experiments = Experiment.safe.all(user=request.user)
    context = {"experiments": experiments.filter(projects=project_id)}
    return render_response_index(request, "tardis_portal/experiment_list.html", context)
