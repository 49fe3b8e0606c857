"""A picture as its profile asks for it: framed, cut out, of exact size, and on a print sheet.

`finish` is the way of a picture from top to bottom; each step is a module of its own.
"""
