"""The central comparison of the paper, on data that anyone can reach: mutual information, MIND-SSC and DSIR in turn.

The same network is trained with each, and the same optimiser is driven by each.
"""
