"""Users and groups of the local database, and the names under which access rules speak of them."""

from django.contrib.auth.backends import ModelBackend

auth_key = "localdb"
auth_display_name = "Local DB"

django_user = "django_user"
django_group = "django_group"


class DjangoAuthBackend:
    """Signs in with the user name and password of a posted form."""

    def authenticate(self, request):
        username, password = request.POST["username"], request.POST["password"]
        if not (username and password):
            return None
        return ModelBackend().authenticate(request, username=username, password=password)
