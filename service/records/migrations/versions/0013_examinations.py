"""what the examination of a classifier found, and why one cannot be audited any more"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TEXTS = {
    "identity": 64,
    "file_sha256": 64,
    "derived_sha256": 64,
    "examiner": 20,
    "report_signature": 128,
    "refusal": 500,
}
INDEXED = ("identity", "file_sha256")


def upgrade() -> None:
    for name, length in TEXTS.items():
        op.add_column("classifiers", sa.Column(name, sa.String(length=length), nullable=True))
    op.add_column("classifiers", sa.Column("report", sa.JSON(), nullable=True))
    for name in INDEXED:
        op.create_index(f"ix_classifiers_{name}", "classifiers", [name])


def downgrade() -> None:
    for name in INDEXED:
        op.drop_index(f"ix_classifiers_{name}", table_name="classifiers")
    for name in (*TEXTS, "report"):
        op.drop_column("classifiers", name)
