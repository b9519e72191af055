"""the sentence of the error that ended a job or a delivery"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES = ("jobs", "deliveries")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("error_detail", sa.String(length=500), nullable=True))


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "error_detail")
