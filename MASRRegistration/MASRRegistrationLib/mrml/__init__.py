"""Nodes to files and results to nodes. Needs slicer, vtk and numpy; knows no qt."""
