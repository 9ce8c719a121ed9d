"""One file for each system, written as its documentation tells a user to write it.

A file holds: DATABASE, where the effects are; WORKER, the arguments of its worker process; EMBEDDED, whether the
publishing process handles too; `prepare`, `publishing` and `clean`. It is imported only where its libraries are.
"""
