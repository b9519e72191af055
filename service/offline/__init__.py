"""Audit and calibrate straight on files: no database, no server."""
