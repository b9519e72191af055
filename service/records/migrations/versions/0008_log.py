"""the hypothesis of an audit, and events that may be removed behind a signed statement"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATED = "EXISTS (SELECT 1 FROM prunings WHERE writer = OLD.writer AND last_sequence >= OLD.sequence)"


def upgrade() -> None:
    op.add_column("audits", sa.Column("hypothesis", sa.String(length=8), nullable=True))
    op.create_table(
        "prunings",
        sa.Column("writer", sa.String(length=32), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("writer", "last_sequence", name=op.f("pk_prunings")),
    )
    _guard_deletion(f"NOT {STATED}")
    _forbid_changes_of_statements()


def downgrade() -> None:
    _guard_deletion("TRUE")
    op.drop_table("prunings")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION prunings_append_only()")
    op.drop_column("audits", "hypothesis")


def _guard_deletion(forbidden: str) -> None:
    """An event may be deleted only where a statement covers it; it may never be changed."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE OR REPLACE FUNCTION events_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF TG_OP = 'UPDATE' OR {forbidden} THEN RAISE EXCEPTION 'events is append-only'; END IF; "
            "RETURN OLD; END $$"
        )
        return
    op.execute("DROP TRIGGER events_no_delete")
    op.execute(
        f"CREATE TRIGGER events_no_delete BEFORE DELETE ON events WHEN {forbidden} "
        "BEGIN SELECT RAISE(ABORT, 'events is append-only'); END"
    )


def _forbid_changes_of_statements() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION prunings_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'prunings is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER prunings_append_only BEFORE UPDATE OR DELETE ON prunings "
            "FOR EACH ROW EXECUTE FUNCTION prunings_append_only()"
        )
        return
    for action in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER prunings_no_{action.lower()} BEFORE {action} ON prunings "
            "BEGIN SELECT RAISE(ABORT, 'prunings is append-only'); END"
        )
