"""One pair of images: what is given for it (`inputs`), how it is registered (`solve`), what comes out (`result`).

`monitor` and `files` are plain Python, for processes that have no torch.
"""
