"""Packed models for other programs: a Hugging Face folder, ONNX, safetensors."""
