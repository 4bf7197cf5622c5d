"""From a trained network to what runs it elsewhere: folded norms, ONNX, ExecuTorch, Core ML, int8, and the check of each."""
