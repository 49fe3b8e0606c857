"""Device, precision and memory, random generators, threads and files of the machine.

Nothing here knows of faces, models or images.
"""
