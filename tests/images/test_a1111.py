"""The text that other programs read."""

from __future__ import annotations

from mcap.images import a1111
from tests.support.pictures import GENERATED


def test_the_text_is_automatic1111s():
    assert a1111.parameters_text(GENERATED) == (
        "a photo of a <mcap-id> person, white & bright 日本\n"
        "Negative prompt: hat, sunglasses\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 42, Size: 256x256, "
        "Model hash: abcdef0123, Model: demo, Version: mcap 0.1.0"
    )
    bare = a1111.parameters_text({**GENERATED, "negative_prompt": ""})
    assert "Negative" not in bare
    odd = {**GENERATED, "backbone": {**GENERATED["backbone"], "id": "a, b: c"}}
    assert 'Model: "a, b: c"' in a1111.parameters_text(odd)
