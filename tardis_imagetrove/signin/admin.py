"""Administration of signing in: link identities to accounts, name people on projects in advance."""

from __future__ import annotations

from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest

from . import identity
from .models import FederatedIdentity, ProjectMember


class WaitingFilter(admin.SimpleListFilter):
    title = "account"
    parameter_name = "waiting"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin) -> list[tuple[str, str]]:
        return [("yes", "Waiting to be linked"), ("no", "Linked")]

    def queryset(self, request: HttpRequest, queryset):  # noqa: ANN001, ANN201 (querysets)
        return queryset.filter(user__isnull=self.value() == "yes") if self.value() else queryset


@admin.register(FederatedIdentity)
class FederatedIdentityAdmin(admin.ModelAdmin):
    """A person who waits is linked by choosing the account."""

    list_display = ("__str__", "issuer", "mail", "mail_verified", "user", "first_seen", "last_seen")
    list_filter = (WaitingFilter, "issuer")
    search_fields = ("mail", "name", "subject", "issuer", "user__username")
    list_select_related = ("user",)
    autocomplete_fields = ("user",)
    fields = (
        *("name", "mail", "mail_verified", "issuer", "subject", "shared_token"),
        *("user", "others_of_the_account", "first_seen", "last_seen"),
    )
    readonly_fields = (
        *(
            "name",
            "mail",
            "mail_verified",
            "shared_token",
            "others_of_the_account",
            "first_seen",
            "last_seen",
        ),
    )

    def get_readonly_fields(
        self, request: HttpRequest, obj: FederatedIdentity | None = None
    ) -> tuple[str, ...]:
        # Who it is never changes; a wrong identity is deleted, not edited into another person's.
        return (*self.readonly_fields, "issuer", "subject") if obj else self.readonly_fields

    @admin.display(description="Other identities of this account")
    def others_of_the_account(self, identity: FederatedIdentity) -> str:
        if identity.user_id is None:
            return "–"
        others = FederatedIdentity.objects.filter(user=identity.user_id).exclude(pk=identity.pk)
        return ", ".join(f"{one} ({one.issuer})" for one in others) or "–"

    def save_model(self, request: HttpRequest, obj: FederatedIdentity, form: ModelForm, change: bool) -> None:
        if not change:
            obj.save()
        identity.relink(obj, obj.user)


@admin.register(ProjectMember)
class ProjectMemberAdmin(admin.ModelAdmin):
    """People who get a project's group when they next sign in through a provider."""

    list_display = ("group", "mail", "targeted_id", "user", "joined")
    list_filter = (("joined", admin.EmptyFieldListFilter),)
    search_fields = ("group__name", "mail", "targeted_id")
    autocomplete_fields = ("group",)
    readonly_fields = ("user", "joined", "created")
