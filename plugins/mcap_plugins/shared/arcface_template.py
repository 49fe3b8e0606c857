"""Where ArcFace and SFace want a face's five landmarks."""

from __future__ import annotations

import numpy as np

INPUT_SIZE = 112

FROM_CENTRE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)
"""float32[5, 2] in their 112 x 112 input, counted from the centre of the first pixel as their
authors do."""

TEMPLATE = FROM_CENTRE + np.float32(0.5)
"""The same, counted from the corner of the first pixel as everywhere in mcap."""
