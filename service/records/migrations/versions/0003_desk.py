"""the auditor's desk: reviews, accounts, logins, checkpoints"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

QUEUE = ["priority", "received_at", "id"]


def upgrade() -> None:
    _reviews()
    _accounts()
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.String(length=64), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
    )


def downgrade() -> None:
    for table in ("checkpoints", "setups", "throttles", "logins", "accounts", "reviews"):
        op.drop_table(table)


def _reviews() -> None:
    op.create_table(
        "reviews",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("classifier_name", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("group_key", sa.String(length=32), nullable=True),
        sa.Column("proposal", sa.String(length=16), nullable=True),
        sa.Column("first_reader", sa.String(length=80), nullable=True),
        sa.Column("decided_by", sa.String(length=80), nullable=True),
        sa.Column("decided_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["id"], ["audits.id"], name=op.f("fk_reviews_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
    )
    for leading in ([], ["state"], ["classifier_name", "state"], ["source", "state"], ["classifier_name"], ["source"]):
        columns = [*leading, *QUEUE]
        op.create_index(f"ix_reviews_{'_'.join(columns)}", "reviews", columns)
    op.create_index("ix_reviews_group_key_state", "reviews", ["group_key", "state"])
    op.execute(
        "INSERT INTO reviews (id, state, priority, received_at, classifier_name, source) "
        "SELECT audits.id, CASE audits.verdict WHEN 'unremarkable' THEN 'unflagged' ELSE 'open' END, "
        "CASE audits.verdict WHEN 'suspicious' THEN 2 WHEN 'indeterminate' THEN 1 ELSE 0 END, "
        "audits.received_at, audits.classifier_name, jobs.source FROM audits JOIN jobs ON jobs.id = audits.id"
    )


def _accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("password_hash", sa.String(length=160), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_accounts")),
    )
    op.create_table(
        "logins",
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("account_name", sa.String(length=64), nullable=False),
        sa.Column("csrf_token", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_name"], ["accounts.name"], name=op.f("fk_logins_account_name")),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_logins")),
    )
    op.create_index("ix_logins_account_name", "logins", ["account_name"])
    op.create_index("ix_logins_expires_at", "logins", ["expires_at"])
    op.create_table(
        "throttles",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_throttles")),
    )
    op.create_table(
        "setups",
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_setups")),
    )
