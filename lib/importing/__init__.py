"""Read networks from PyTorch source, notebooks and ONNX files, without running anything."""
