"""Files of pictures and what they carry: read within limits, brought to sRGB, written whole.

`photo` is for pictures that are looked at, `picture` for those that are worked on and written again
by `write`. Nothing here knows of faces.
"""
