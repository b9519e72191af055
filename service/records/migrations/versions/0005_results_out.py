"""proof that results arrived, and what deployed classifiers answered"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("proof", sa.String(length=16), nullable=True))
    op.add_column("deliveries", sa.Column("transaction_uid", sa.String(length=64), nullable=True))
    op.create_index("ix_deliveries_transaction_uid", "deliveries", ["transaction_uid"])
    op.create_table(
        "comparisons",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("probabilities", sa.JSON(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=True),
        sa.Column("deployed", sa.Double(), nullable=True),
        sa.Column("audited", sa.Double(), nullable=True),
        sa.Column("tolerance", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_comparisons_job_id")),
        sa.PrimaryKeyConstraint("job_id", "fingerprint", name=op.f("pk_comparisons")),
    )


def downgrade() -> None:
    op.drop_table("comparisons")
    op.drop_index("ix_deliveries_transaction_uid", "deliveries")
    with op.batch_alter_table("deliveries") as deliveries:
        deliveries.drop_column("transaction_uid")
        deliveries.drop_column("proof")
