"""edgept: one frozen ONNX model, its task in a kilobyte prompt file."""
