"""DICOM in from any PACS by C-STORE or by watching, and results back with proof that they arrived."""
