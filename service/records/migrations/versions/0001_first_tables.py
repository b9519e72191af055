"""first tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


APPEND_ONLY = ("activations", "audits", "events")


def upgrade() -> None:
    op.create_table(
        "activations",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("slot", sa.String(length=160), nullable=False),
        sa.Column("target", sa.String(length=64), nullable=True),
        sa.Column("previous_id", sa.Integer(), nullable=True),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.ForeignKeyConstraint(["previous_id"], ["activations.id"], name=op.f("fk_activations_previous_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_activations")),
    )
    op.create_index("ix_activations_slot_id", "activations", ["slot", "id"])

    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(), nullable=True),
        sa.Column("last_used_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("name", name=op.f("uq_api_keys_name")),
    )
    op.create_table(
        "classifiers",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("added_at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_classifiers")),
    )
    op.create_index("ix_classifiers_name", "classifiers", ["name"])

    op.create_table(
        "events",
        sa.Column("writer", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=48), nullable=False),
        sa.Column("subject", sa.String(length=160), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("writer", "sequence", name=op.f("pk_events")),
        sa.UniqueConstraint("hash", name=op.f("uq_events_hash")),
    )
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index("ix_events_subject_at", "events", ["subject", "at"])

    op.create_table(
        "films",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("pixels_sha256", sa.String(length=64), nullable=False),
        sa.Column("byte_count", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("original_expires_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_films")),
    )
    op.create_index("ix_films_original_expires_at", "films", ["original_expires_at"])
    op.create_index("ix_films_pixels_sha256", "films", ["pixels_sha256"])

    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("film_sha256", sa.String(length=64), nullable=False),
        sa.Column("classifier_sha256", sa.String(length=64), nullable=False),
        sa.Column("classifier_name", sa.String(length=64), nullable=False),
        sa.Column("policy_sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("owner", sa.String(length=40), nullable=True),
        sa.Column("lease_until", sa.DateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.ForeignKeyConstraint(["classifier_sha256"], ["classifiers.sha256"], name=op.f("fk_jobs_classifier_sha256")),
        sa.ForeignKeyConstraint(["film_sha256"], ["films.sha256"], name=op.f("fk_jobs_film_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint(
            "film_sha256",
            "classifier_sha256",
            "policy_sha256",
            name=op.f("uq_jobs_film_sha256_classifier_sha256_policy_sha256"),
        ),
    )
    op.create_index("ix_jobs_classifier_name_received_at_id", "jobs", ["classifier_name", "received_at", "id"])
    op.create_index("ix_jobs_received_at_id", "jobs", ["received_at", "id"])
    op.create_index("ix_jobs_source_received_at_id", "jobs", ["source", "received_at", "id"])
    op.create_index("ix_jobs_state_received_at_id", "jobs", ["state", "received_at", "id"])

    op.create_table(
        "policies",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("classifier_sha256", sa.String(length=64), nullable=False),
        sa.Column("preprocessing_sha256", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("false_positive_rate", sa.Double(), nullable=False),
        sa.Column("created_at", sa.String(length=40), nullable=False),
        sa.Column("added_at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.ForeignKeyConstraint(
            ["classifier_sha256"], ["classifiers.sha256"], name=op.f("fk_policies_classifier_sha256")
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_policies")),
    )
    op.create_index("ix_policies_classifier_sha256", "policies", ["classifier_sha256"])

    op.create_table(
        "audits",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("film_sha256", sa.String(length=64), nullable=False),
        sa.Column("pixels_sha256", sa.String(length=64), nullable=False),
        sa.Column("classifier_name", sa.String(length=64), nullable=False),
        sa.Column("classifier_sha256", sa.String(length=64), nullable=False),
        sa.Column("preprocessing_sha256", sa.String(length=64), nullable=False),
        sa.Column("policy_name", sa.String(length=64), nullable=True),
        sa.Column("policy_sha256", sa.String(length=64), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=True),
        sa.Column("probabilities", sa.JSON(), nullable=False),
        sa.Column("explained_label", sa.String(length=64), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("region", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("timings_ms", sa.JSON(), nullable=False),
        sa.Column("code_version", sa.String(length=32), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("completed_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name=op.f("fk_audits_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audits")),
        sa.UniqueConstraint(
            "film_sha256",
            "classifier_sha256",
            "policy_sha256",
            name=op.f("uq_audits_film_sha256_classifier_sha256_policy_sha256"),
        ),
    )
    op.create_index(
        "ix_audits_classifier_name_verdict_received_at_id",
        "audits",
        ["classifier_name", "verdict", "received_at", "id"],
    )
    op.create_index("ix_audits_verdict_received_at_id", "audits", ["verdict", "received_at", "id"])

    op.create_table(
        "idempotency_keys",
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_idempotency_keys_job_id")),
        sa.PrimaryKeyConstraint("actor", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])

    for table in APPEND_ONLY:
        _forbid_changes(table)


def downgrade() -> None:
    op.drop_index("ix_idempotency_keys_created_at", table_name="idempotency_keys")

    op.drop_table("idempotency_keys")
    op.drop_index("ix_audits_verdict_received_at_id", table_name="audits")
    op.drop_index("ix_audits_classifier_name_verdict_received_at_id", table_name="audits")

    op.drop_table("audits")
    op.drop_index("ix_policies_classifier_sha256", table_name="policies")

    op.drop_table("policies")
    op.drop_index("ix_jobs_state_received_at_id", table_name="jobs")
    op.drop_index("ix_jobs_source_received_at_id", table_name="jobs")
    op.drop_index("ix_jobs_received_at_id", table_name="jobs")
    op.drop_index("ix_jobs_classifier_name_received_at_id", table_name="jobs")

    op.drop_table("jobs")
    op.drop_index("ix_films_pixels_sha256", table_name="films")
    op.drop_index("ix_films_original_expires_at", table_name="films")

    op.drop_table("films")
    op.drop_index("ix_events_subject_at", table_name="events")
    op.drop_index("ix_events_at", table_name="events")

    op.drop_table("events")
    op.drop_index("ix_classifiers_name", table_name="classifiers")

    op.drop_table("classifiers")
    op.drop_table("api_keys")
    op.drop_index("ix_activations_slot_id", table_name="activations")

    op.drop_table("activations")
    if op.get_bind().dialect.name == "postgresql":
        for table in APPEND_ONLY:
            op.execute(f"DROP FUNCTION {table}_append_only()")


def _forbid_changes(table: str) -> None:
    """Rows of this table can be appended, not changed or removed."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_append_only()"
        )
        return
    for action in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
