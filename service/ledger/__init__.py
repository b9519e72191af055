"""The log against tampering: signed, pruned, forwarded, bundled."""
