"""The pure core: bytes -> Radiograph -> model input -> Prediction -> Saliency -> Evidence -> Verdict.

Frozen dataclasses and plain functions over numpy, pydicom, Pillow and ONNX Runtime. No web framework,
no database, no torch and no settings, so that training and evaluation measure the code that is deployed.
"""
