"""The database: tables, the one commit site, every statement, and the migrations."""
