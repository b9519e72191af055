"""From strangers' bytes to a radiograph, decoded in a bounded child process."""
