"""The log that shows tampering: verified, signed, pruned, forwarded, and bundled as evidence."""
