"""The migrations: one numbered file for each change of the tables."""
