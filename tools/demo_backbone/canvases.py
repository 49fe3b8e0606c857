"""The shapes of pictures that the backbone is trained at: width and height in pixels."""

SQUARE = (256, 256)
# 7:9 is 35:45 exactly; sides in 32s, so that the latents (16 times smaller) halve without a rest
# where the UNet's cross-attention is; and 252 positions a map are as much work as the square's
# 256. It is also what mcap draws for that aspect.
PORTRAIT = (224, 288)
CANVASES = {"square": SQUARE, "portrait": PORTRAIT}
