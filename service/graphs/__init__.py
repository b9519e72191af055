"""A stranger's ONNX file -> an auditable classifier that we derived ourselves, and the report of its examination."""
