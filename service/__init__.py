"""Triggerscope's service: audits chest-radiograph classifiers for backdoors while they run."""

__version__ = "0.1.0"
