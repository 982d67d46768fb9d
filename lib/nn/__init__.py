"""Networks as torch modules, the fast training path, and the memory of a pass."""
