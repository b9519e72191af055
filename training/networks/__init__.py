"""Networks and ONNX files: the two DenseNets, third parties' classifiers, and gradient maps inside an ONNX graph."""
