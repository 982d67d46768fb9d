"""PyTorch source, tables and ONNX files."""
