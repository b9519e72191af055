"""DICOM in from any PACS, and results back into it."""
