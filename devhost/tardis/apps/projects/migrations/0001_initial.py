"""The tables of the models as they are: nobody upgrades an embedded host."""

from django.db import migrations
from tardis.tardis_portal.models.tables import tables_of


class Migration(migrations.Migration):
    initial = True
    dependencies = [("tardis_portal", "0001_initial")]
    operations = [*tables_of("projects")]
