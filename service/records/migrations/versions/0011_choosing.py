"""how a job was chosen, and by what the same film is known again in other bytes"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

KEYS = "fingerprint_keys"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("chosen_by", sa.String(length=8), nullable=True))
    op.add_column("audits", sa.Column("fingerprint", sa.String(length=256), nullable=True))
    op.create_table(
        KEYS,
        sa.Column("key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("audit_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audits.id"], name=op.f("fk_fingerprint_keys_audit_id")),
        sa.PrimaryKeyConstraint("key", "audit_id", name=op.f("pk_fingerprint_keys")),
    )


def downgrade() -> None:
    op.drop_table(KEYS)
    op.drop_column("audits", "fingerprint")
    op.drop_column("jobs", "chosen_by")
