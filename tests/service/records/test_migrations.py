import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from service.records import migrations, queries
from service.records.chain import record_hash
from service.records.session import Database, DatabaseNotReady
from service.records.tables import PruningRow, Tables
from tests.service.records.rows import add_audit, add_classifier, add_job


def test_tables_and_migrations_agree(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Tables.metadata) == []


def test_an_empty_database_is_refused_until_it_is_upgraded(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    with pytest.raises(DatabaseNotReady, match="db upgrade"):
        database.require_current_schema()
    database.upgrade()
    database.upgrade()
    database.require_current_schema()
    database.close()


def test_down_and_up_again(database: Database) -> None:
    with database._writing.begin() as connection:
        command.downgrade(migrations.config(connection), "base")
    with database.engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    database.upgrade()
    with database.engine.connect() as connection:
        assert set(Tables.metadata.tables) <= set(inspect(connection).get_table_names())


@pytest.mark.parametrize("statement", ["UPDATE {} SET {} = '9'", "DELETE FROM {}"])
@pytest.mark.parametrize(
    ("table", "column"),
    [("audits", "score"), ("events", "payload"), ("activations", "slot"), ("prunings", "writer")],
)
def test_appended_rows_cannot_be_changed(database: Database, statement: str, table: str, column: str) -> None:
    with database.write() as unit:
        add_classifier(unit.session)
        add_audit(unit.session, add_job(unit.session, 1))
        unit.record("test", "subject", "actor")
        unit.session.execute(
            text("INSERT INTO activations (slot, at, actor) VALUES ('s', '2026-01-01 00:00:00', 'test')")
        )
        unit.session.add(PruningRow(writer="another", last_sequence=1, document={}))
    with pytest.raises(DBAPIError, match="append-only"), database.write() as unit:
        unit.session.execute(text(statement.format(table, column)))


def test_a_database_of_two_versions_before_opens_with_its_rows(database: Database) -> None:
    """As version 0009 left it: jobs and deliveries without the sentence of their error."""
    with database.write() as unit:
        add_classifier(unit.session)
        add_audit(unit.session, add_job(unit.session, 1), "suspicious")
        add_job(unit.session, 2, state="failed", error_code="decode_failed")
    with database._writing.begin() as connection:
        command.downgrade(migrations.config(connection), "0009")
    assert "error_detail" not in {column["name"] for column in inspect(database.engine).get_columns("jobs")}
    with pytest.raises(DatabaseNotReady):
        database.require_current_schema()
    database.upgrade()
    with database.read() as session:
        done, failed = (queries.job(session, f"{number:032x}") for number in (1, 2))
    assert done is not None
    assert done.audit is not None
    assert (done.audit.verdict, done.error_detail) == ("suspicious", None)
    assert failed is not None
    assert (failed.error_code, failed.error_detail) == ("decode_failed", None)


def test_audits_from_before_fingerprints_keep_their_hash(database: Database) -> None:
    """As version 0010 left it: nothing says how a job was chosen, and audits have no fingerprint."""
    with database.write() as unit:
        add_classifier(unit.session)
        before = record_hash(add_audit(unit.session, add_job(unit.session, 1), "suspicious"))
    with database._writing.begin() as connection:
        command.downgrade(migrations.config(connection), "0010")
    assert "fingerprint_keys" not in inspect(database.engine).get_table_names()
    database.upgrade()
    with database.read() as session:
        job = queries.job(session, f"{1:032x}")
    assert job is not None
    assert job.audit is not None
    assert (job.chosen_by, job.audit.fingerprint, record_hash(job.audit)) == (None, None, before)
