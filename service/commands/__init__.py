"""The command line `triggerscope`, a file a noun; what a command needs is loaded when it runs."""
