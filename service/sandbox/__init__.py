"""The box that strangers' bytes are opened in: a child process without network, secrets and files to write."""
