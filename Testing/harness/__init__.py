"""Runs a 3D Slicer scripted module without the Slicer application: PythonQt semantics on PySide6, real MRML.

Start with README.md: what is real, what is emulated, and where the two differ.
"""
