"""The JSON API: endpoints parse, call one function, return."""
