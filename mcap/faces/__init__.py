"""Faces in one picture: what they measure, whose they are, and which pixels they cover.

`mcap.faces.measure.find_faces` runs a detector and an identity network and measures each face;
`masks`, `oval` and `parts` draw where a face is; `similarity` compares people.
"""
