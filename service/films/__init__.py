"""Bytes of strangers -> Radiograph, in a bounded child process."""
