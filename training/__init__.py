"""Builds clean and backdoored classifiers, exports them, calibrates the detector and proves it."""
