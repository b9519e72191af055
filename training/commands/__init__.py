"""The command line `triggerscope-train`, a file a noun."""
