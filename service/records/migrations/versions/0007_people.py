"""people at the desk: assignment, the watch list, single sign-on"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ASSIGNED = ["assignee", "state", "priority", "received_at", "id"]


def upgrade() -> None:
    op.add_column("reviews", sa.Column("assignee", sa.String(length=80), nullable=True))
    op.create_index(f"ix_reviews_{'_'.join(ASSIGNED)}", "reviews", ASSIGNED)
    op.add_column("audits", sa.Column("watch_hit", sa.JSON(), nullable=True))
    op.add_column("accounts", sa.Column("last_login_at", sa.DateTime(), nullable=True))
    op.add_column("logins", sa.Column("issuer", sa.String(length=255), nullable=True))
    _watch_list()
    _single_sign_on()


def downgrade() -> None:
    for table in ("sign_ons", "subjects", "watch_list"):
        op.drop_table(table)
    op.drop_column("logins", "issuer")
    op.drop_column("accounts", "last_login_at")
    op.drop_column("audits", "watch_hit")
    op.drop_index(f"ix_reviews_{'_'.join(ASSIGNED)}", "reviews")
    op.drop_column("reviews", "assignee")


def _watch_list() -> None:
    op.create_table(
        "watch_list",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("audit_id", sa.String(length=32), nullable=False),
        sa.Column("group_key", sa.String(length=32), nullable=False),
        sa.Column("classifier_name", sa.String(length=64), nullable=False),
        sa.Column("preprocessing_sha256", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("region", sa.JSON(), nullable=False),
        sa.Column("pixels", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("added_at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("retired_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["audit_id"], ["audits.id"], name=op.f("fk_watch_list_audit_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_watch_list")),
    )
    op.create_index("ix_watch_list_classifier_name", "watch_list", ["classifier_name"])
    op.create_index("ix_watch_list_group_key", "watch_list", ["group_key"])


def _single_sign_on() -> None:
    op.create_table(
        "subjects",
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("account_name", sa.String(length=64), nullable=False),
        sa.Column("linked_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_name"], ["accounts.name"], name=op.f("fk_subjects_account_name")),
        sa.PrimaryKeyConstraint("issuer", "subject", name=op.f("pk_subjects")),
    )
    op.create_index("ix_subjects_account_name", "subjects", ["account_name"])
    op.create_table(
        "sign_ons",
        sa.Column("state_sha256", sa.String(length=64), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("code_verifier", sa.String(length=128), nullable=False),
        sa.Column("return_to", sa.String(length=2000), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("state_sha256", name=op.f("pk_sign_ons")),
    )
    op.create_index("ix_sign_ons_expires_at", "sign_ons", ["expires_at"])
