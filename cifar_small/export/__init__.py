"""A trained net for elsewhere: safetensors with a model card, the hub, ONNX, int8, and how fast each answers."""
