"""DICOM in and out: instances, identities, cursors, deliveries"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("rule", sa.String(length=64), nullable=True))
    _instances()
    _identities()
    op.create_table(
        "cursors",
        sa.Column("name", sa.String(length=160), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cursors")),
    )
    _deliveries()


def _instances() -> None:
    op.create_table(
        "instances",
        sa.Column("film_sha256", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("study_hmac", sa.String(length=64), nullable=False),
        sa.Column("series_hmac", sa.String(length=64), nullable=False),
        sa.Column("sop_hmac", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("certificate_sha256", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["film_sha256"], ["films.sha256"], name=op.f("fk_instances_film_sha256")),
        sa.PrimaryKeyConstraint("film_sha256", name=op.f("pk_instances")),
    )
    op.create_index("ix_instances_study_hmac", "instances", ["study_hmac"])
    op.create_index("ix_instances_sop_hmac", "instances", ["sop_hmac"])


def _identities() -> None:
    op.create_table(
        "identities",
        sa.Column("film_sha256", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["film_sha256"], ["films.sha256"], name=op.f("fk_identities_film_sha256")),
        sa.PrimaryKeyConstraint("film_sha256", name=op.f("pk_identities")),
    )
    op.create_index("ix_identities_expires_at", "identities", ["expires_at"])


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("delivered_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("job_id", "destination", "kind", name=op.f("uq_deliveries_job_id_destination_kind")),
    )
    op.create_index("ix_deliveries_state_due_at", "deliveries", ["state", "due_at"])


def downgrade() -> None:
    for table in ("deliveries", "cursors", "identities", "instances"):
        op.drop_table(table)
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("rule")
