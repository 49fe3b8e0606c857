"""Similarity transforms between a picture and an upright frame around a face.

`similarity_transform` is for numpy and OpenCV, `align` for torch, where gradients are needed;
`ffhq` knows one particular frame, and `resample` brings a picture into any. Points are (x, y)
pixels that count from the top left corner of the top left pixel, as everywhere in mcap.
"""
