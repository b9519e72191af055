"""Alembic's entry point: migrates the connection that the caller opened, inside its transaction."""

from alembic import context

from service.records.tables import Tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Tables.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
