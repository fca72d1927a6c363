"""What a GGUF model will allocate on your GPUs, to the byte, and the largest context that is still safe."""

__version__ = "0.1.0"
