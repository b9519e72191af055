"""A film's way through the queue: accepted, leased, audited, recorded."""
