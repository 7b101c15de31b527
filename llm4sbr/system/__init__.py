"""The machine: memory, devices, processes, signals, and model files."""
