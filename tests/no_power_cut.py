"""
No test cuts the power, which is what `os.fsync` guards against: milliseconds a file, up to a hundred files a run.
"""

import os


def fsync(descriptor: int):
    os.fstat(descriptor)  # so that what is not open is an error as ever


os.fsync = fsync
