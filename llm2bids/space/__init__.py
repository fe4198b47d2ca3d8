"""The bijection between units of a model and voxels of an image. No torch, no file names."""
