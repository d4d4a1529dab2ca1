"""``python -m masr_registration``, the same as the command ``masr``."""

from .cli import main

if __name__ == "__main__":
    main()
