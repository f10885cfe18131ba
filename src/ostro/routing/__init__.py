"""Pure policy: which node and which model answer a request, and why. Torch-free; shared by client and gateway."""
