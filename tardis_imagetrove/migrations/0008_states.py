"""Reasons become data, changes of state become events, and series can be queued or discarded."""

import django.db.models.deletion
from django.db import migrations, models

BATCH = 2000

SERIES_STATES = [
    ("receiving", "Receiving"),
    ("queued", "Queued"),
    ("ingesting", "Archiving"),
    ("waiting", "Waiting to retry"),
    ("held", "Held: needs attention"),
    ("converting", "Converting"),
    ("done", "Archived"),
    ("partial", "Archived, conversion incomplete"),
    ("discarded", "Discarded"),
]
RUN_STATES = [
    ("queued", "Queued"),
    ("running", "Running"),
    ("waiting", "Waiting to retry"),
    ("done", "Done"),
    ("partial", "Done, with warnings"),
    ("skipped", "Skipped"),
    ("failed", "Failed"),
]


def legacy(text, code="legacy"):
    return {"code": code, "text": text, "subject": ""}


def texts(reasons):
    return "; ".join(f"{one['subject']}: {one['text']}" if one["subject"] else one["text"] for one in reasons)


def change(model, condition, set_fields, fields):
    """Rewrite rows in batches; ``modified`` stays as it is."""
    last = 0
    while True:
        rows = list(model.objects.filter(condition, pk__gt=last).order_by("pk")[:BATCH])
        if not rows:
            return
        for row in rows:
            set_fields(row)
        model.objects.bulk_update(rows, fields, batch_size=200)
        last = rows[-1].pk


def forwards(apps, schema_editor):
    def series(row):
        row.reasons = [legacy(row.reason_text)] if row.reason_text else []
        row.reason_code = "legacy" if row.reason_text else ""
        row.left_out = [legacy(row.left_out_text)] if row.left_out_text else []

    def run(row):
        warnings = [legacy(text, "warning") for text in row.warnings]
        known = "; ".join(row.warnings)
        own = [legacy(row.reason_text)] if row.reason_text and row.reason_text != known else []
        row.reasons = own + warnings

    def archive(row):
        row.losses = row.losses_text.split("; ")

    models_of = lambda name: apps.get_model("tardis_imagetrove", name)  # noqa: E731
    told = ~models.Q(reason_text="")
    change(
        models_of("Series"),
        told | ~models.Q(left_out_text=""),
        series,
        ["reasons", "reason_code", "left_out"],
    )
    change(models_of("FilterRun"), told | ~models.Q(state__in=["done", "queued"]), run, ["reasons"])
    change(models_of("Archive"), ~models.Q(losses_text=""), archive, ["losses"])


def backwards(apps, schema_editor):
    def series(row):
        row.reason_text, row.left_out_text = texts(row.reasons), texts(row.left_out)
        row.state = {"queued": "receiving", "discarded": "held"}.get(row.state, row.state)

    def run(row):
        row.reason_text = texts(row.reasons)
        row.warnings = [one["text"] for one in row.reasons if one["code"] == "warning"]

    def archive(row):
        row.losses_text = "; ".join(row.losses)

    models_of = lambda name: apps.get_model("tardis_imagetrove", name)  # noqa: E731
    every = models.Q()
    change(models_of("Series"), every, series, ["reason_text", "left_out_text", "state"])
    change(models_of("FilterRun"), every, run, ["reason_text", "warnings"])
    change(models_of("Archive"), every, archive, ["losses_text"])


class Migration(migrations.Migration):
    dependencies = [
        ("tardis_imagetrove", "0007_state_words"),
    ]

    operations = [
        migrations.RenameField("series", "reason", "reason_text"),
        migrations.RenameField("series", "left_out", "left_out_text"),
        migrations.RenameField("filterrun", "reason", "reason_text"),
        migrations.RenameField("archive", "losses", "losses_text"),
        # Without a default the old columns could not be made again by a migration backwards.
        migrations.AlterField("series", "reason_text", models.TextField(blank=True, default="")),
        migrations.AlterField("series", "left_out_text", models.TextField(blank=True, default="")),
        migrations.AlterField("filterrun", "reason_text", models.TextField(blank=True, default="")),
        migrations.AlterField("archive", "losses_text", models.TextField(blank=True, default="")),
        migrations.AddField(
            "series",
            "reasons",
            models.JSONField(blank=True, default=list, help_text="Why the series is in its state."),
        ),
        migrations.AddField(
            "series",
            "reason_code",
            models.CharField(blank=True, default="", help_text="Code of the first reason.", max_length=32),
            preserve_default=False,
        ),
        migrations.AddField(
            "series",
            "left_out",
            models.JSONField(
                blank=True,
                default=list,
                help_text="Why files stay in the spool: they cannot be read or copied.",
            ),
        ),
        migrations.AddField(
            "filterrun",
            "reasons",
            models.JSONField(
                blank=True,
                default=list,
                help_text="Why it failed, waits or was skipped, and its warnings.",
            ),
        ),
        migrations.AddField(
            "archive",
            "losses",
            models.JSONField(
                blank=True,
                default=list,
                help_text="What de-identification removed that researchers may miss.",
            ),
        ),
        migrations.RunPython(forwards, backwards),
        migrations.RemoveField("series", "reason_text"),
        migrations.RemoveField("series", "left_out_text"),
        migrations.RemoveField("filterrun", "reason_text"),
        migrations.RemoveField("filterrun", "warnings"),
        migrations.RemoveField("archive", "losses_text"),
        migrations.AlterField(
            "series",
            "state",
            models.CharField(choices=SERIES_STATES, db_index=True, default="receiving", max_length=16),
        ),
        migrations.AlterField(
            "filterrun",
            "state",
            models.CharField(choices=RUN_STATES, db_index=True, default="queued", max_length=16),
        ),
        migrations.AddIndex(
            "series",
            models.Index(fields=["state", "-modified", "-id"], name="imagetrove_series_state"),
        ),
        migrations.AddIndex(
            "series", models.Index(fields=["-modified", "-id"], name="imagetrove_series_newest")
        ),
        migrations.CreateModel(
            name="Event",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "subject",
                    models.CharField(blank=True, help_text="Name of the filter, for a run.", max_length=100),
                ),
                ("at", models.DateTimeField(auto_now_add=True, db_index=True)),
                ("kind", models.CharField(help_text="The new state, or the action.", max_length=32)),
                (
                    "by",
                    models.CharField(
                        blank=True,
                        help_text="The user or command; empty for the app itself.",
                        max_length=150,
                    ),
                ),
                ("reasons", models.JSONField(blank=True, default=list)),
                (
                    "run",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="events",
                        to="tardis_imagetrove.filterrun",
                    ),
                ),
                (
                    "series",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="events",
                        to="tardis_imagetrove.series",
                    ),
                ),
            ],
            options={"ordering": ("series", "pk")},
        ),
    ]
