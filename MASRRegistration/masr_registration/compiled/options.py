"""How every kernel is compiled."""

FAST_MATH = {"nnan", "ninf", "nsz", "arcp", "contract", "afn"}
"""All of LLVM's fast mathematics but reassociation: with that, a kernel that has just been compiled adds in another
order than the same kernel loaded from the cache, and the first run on a computer gives other bits than the second."""
