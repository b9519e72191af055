"""Networks and ONNX files: the two DenseNets, third parties' classifiers, and the canonical graph in PyTorch."""
