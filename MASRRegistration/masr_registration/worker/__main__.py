"""The background process: ``python -P -m masr_registration.worker``, request on standard input.

Descriptor 1 is kept for the protocol before anything else is imported, and standard output then leads to standard
error: whatever a library prints, also from C, cannot break the protocol.
"""

import os
import sys


def main() -> None:
    protocol = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    import faulthandler

    faulthandler.enable()
    from .job import register_files
    from .session import Session

    code = Session(protocol).run(register_files)
    sys.stderr.flush()
    os._exit(code)  # a library that crashes while Python shuts down must not turn a success into a failure


main()
