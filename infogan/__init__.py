"""The model: plain PyTorch networks and losses, and the one way a file becomes a photo. Knows nothing of training."""
