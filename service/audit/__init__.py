"""From a radiograph to a verdict, with arrays and ONNX Runtime only: no database, no web, no settings.

Frozen dataclasses and plain functions. A stage takes what the one before it returns:
Radiograph -> model input -> Prediction -> Saliency -> Evidence -> Verdict. Training and evaluation borrow this package,
so that they measure the code that is deployed.
"""
