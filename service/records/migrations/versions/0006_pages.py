"""what the pages need: blocks of films by which a policy's fit is watched"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

AUDITS_INDEX = "ix_audits_policy_sha256_completed_at_id"


def upgrade() -> None:
    op.create_index(AUDITS_INDEX, "audits", ["policy_sha256", "completed_at", "id"])
    op.create_table(
        "drift_progress",
        sa.Column("policy_sha256", sa.String(length=64), nullable=False),
        sa.Column("after_at", sa.DateTime(), nullable=False),
        sa.Column("after_id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("policy_sha256", name=op.f("pk_drift_progress")),
    )
    op.create_table(
        "drift_blocks",
        sa.Column("policy_sha256", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_at", sa.DateTime(), nullable=False),
        sa.Column("to_at", sa.DateTime(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("distances", sa.JSON(), nullable=False),
        sa.Column("p_values", sa.JSON(), nullable=True),
        sa.Column("alarms", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("policy_sha256", "source", "number", name=op.f("pk_drift_blocks")),
    )


def downgrade() -> None:
    op.drop_table("drift_blocks")
    op.drop_table("drift_progress")
    op.drop_index(AUDITS_INDEX, "audits")
