"""What the machine offers: device, precision and memory, random generators, threads, files.

Nothing here knows of faces, models or pictures.
"""
