"""What makes models fast on CPUs: hand-written gradients and oneDNN's matrix products."""
