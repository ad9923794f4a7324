"""Videos for the benches: 10 s, 320 x 240 at 25 frames per second, H.264."""

import io

import av
import numpy as np
from bench_examples import photograph
from PIL import Image

FPS, SECONDS, WIDTH, HEIGHT = 25, 10, 320, 240


def encode(seed: int, gop: int) -> bytes:
    """A pan over a photograph with changing noise, at about 350 kbit/s."""
    noise = np.random.default_rng(seed)
    scene = np.asarray(Image.open(io.BytesIO(photograph(seed))).resize((2 * WIDTH, 2 * HEIGHT)))
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        options = {"crf": "26", "g": str(gop), "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(FPS * SECONDS):
            x, y = (round((1 + np.sin(i / 40 + seed + phase)) / 2 * side) for phase, side in ((0, WIDTH), (1, HEIGHT)))
            pixels = scene[y : y + HEIGHT, x : x + WIDTH].astype(np.int16)
            pixels = (pixels + noise.integers(-4, 5, pixels.shape, np.int16)).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()
