"""what a DICOMweb watcher has seen"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "seen_instances",
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("sop_hmac", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("source", "sop_hmac", name=op.f("pk_seen_instances")),
    )
    op.create_index("ix_seen_instances_source_day", "seen_instances", ["source", "day"])


def downgrade() -> None:
    op.drop_table("seen_instances")
