"""The HTTP interface: endpoints parse, call one function, return."""
