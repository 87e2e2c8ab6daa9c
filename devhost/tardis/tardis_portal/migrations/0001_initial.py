"""All tables of the flavour in use, as its models are: nobody upgrades an embedded host."""

from django.db import migrations
from tardis.tardis_portal.flavour import TYPED
from tardis.tardis_portal.models.tables import tables_of


def _make_the_public_user(apps, schema_editor):
    apps.get_model("auth", "User").objects.create(username="PUBLIC_USER")


class Migration(migrations.Migration):
    initial = True
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]
    operations = [
        *tables_of("tardis_portal"),
        *([migrations.RunPython(_make_the_public_user, migrations.RunPython.noop)] if TYPED else []),
    ]
