"""The 3D Slicer side of MASR Registration: `mrml` (scene, no qt) and `gui`."""
