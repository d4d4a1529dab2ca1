"""MASR Registration: modality-agnostic deformable registration of medical images.

Importing this package, `presets`, `worker.messages` and `worker.client` never imports torch: 3D Slicer loads them
into its own process.
"""

__version__ = "0.1.0"
