"""Registration tasks of the field, evaluated by one command: `masr evaluate TASK --data DIR`.

One file for each layout of data; everything that is measured, written and told is the same for all.
"""
