"""A film accepted, queued, leased, audited, recorded."""
