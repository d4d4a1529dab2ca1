"""The background process: its protocol (`messages`), its client (`client`) and the job it does (`job`).

`messages`, `jobfolder`, `staging` and `client` are plain Python: 3D Slicer imports them into its own process.
"""
