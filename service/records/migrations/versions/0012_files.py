"""what is stored of an audit: hash and size of its pixels and maps"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audits", sa.Column("files", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("audits", "files")
