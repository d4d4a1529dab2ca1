"""Finding the counterpart of a point in the other image from saved features. Plain numpy: 3D Slicer imports it."""
