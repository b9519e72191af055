"""Rows and files: the tables, every statement, the one place that commits, and what is stored beside the database."""
