"""the reason for which a policy with warnings was put in force"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("activations", sa.Column("despite_warnings", sa.String(length=500), nullable=True))


def downgrade() -> None:
    op.drop_column("activations", "despite_warnings")
