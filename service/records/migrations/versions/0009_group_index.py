"""an index that gives one group of like findings in the queue's order"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NAME = "ix_reviews_group_key_priority_received_at_id"


def upgrade() -> None:
    op.create_index(op.f(NAME), "reviews", ["group_key", "priority", "received_at", "id"])


def downgrade() -> None:
    op.drop_index(op.f(NAME), table_name="reviews")
