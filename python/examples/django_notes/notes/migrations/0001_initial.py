"""The tables, and the one row of `Total`."""

from django.db import migrations, models


def first_total(apps, _schema_editor):
    apps.get_model("notes", "Total").objects.get_or_create(pk=1)


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Note",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=100, unique=True)),
                ("text", models.TextField()),
            ],
        ),
        migrations.CreateModel(
            name="Total",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("notes", models.IntegerField(default=0)),
            ],
        ),
        migrations.RunPython(first_total, migrations.RunPython.noop),
    ]
