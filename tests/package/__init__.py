"""What users install: the wheel, the image and its locked dependencies, the examples of configuration."""
