"""Chat templates in Jinja that have a place for images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken

from ostro.core.errors import InvalidRequestError
from ostro.core.media import MediaInput
from ostro.media.image import ImageSettings, read_image
from ostro.tokenizer.conversation import read_messages
from ostro.tokenizer.placeholders import IMAGE_MARKS
from ostro.tokenizer.templates import ChatTemplate
from tokenizer.test_huggingface_json import byte_level, loaded

# The first templates of Pixtral's ask for a text part's content, later ones for its text.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST]{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for block in message.content %}{% if block.type == 'text' %}{{ block[NAME] }}"
    "{% elif block.type == 'image' %}[IMG]{% endif %}{% endfor %}{% endif %}[/INST]{% endfor %}"
)
SPECIALS = {"<s>": 0, "[INST]": 1, "[/INST]": 2, "[IMG]": 3}


@pytest.mark.parametrize("name", ["text", "content"])
def test_no_text_beside_an_image_is_lost(name: str) -> None:
    template = ChatTemplate(TEMPLATE.replace("NAME", f"'{name}'"), list(SPECIALS), bos="<s>", eos="</s>", origin="it")
    image = MediaInput.of("image", np.zeros((3, 16, 16), np.float32), (1, 1))
    parts = [{"type": "text", "text": "what is "}, {"type": "media", "media": image}, {"type": "text", "text": "[IMG]"}]
    ids = template.encode(
        read_messages([{"role": "user", "content": parts}]),
        lambda text: [ord(one) for one in text],
        SPECIALS.__getitem__,
    )
    assert ids == [0, 1, *map(ord, "what is "), 3, *map(ord, "[IMG]"), 2]


def test_marks_of_images_become_rows_of_places(tmp_path: Path) -> None:
    """Two images of different sizes and the text around them, as transformers' processor lays them out."""
    inner = byte_level()
    inner.add_special_tokens([AddedToken(mark, special=True) for mark in (*IMAGE_MARKS, "[/INST]")])
    template = TEMPLATE.replace("NAME", "'text'")
    ours = loaded(inner, tmp_path, {"chat_template": template, "bos_token": "<s>", "eos_token": "</s>"})
    pictures = [Image.new("RGB", size, "red") for size in ((64, 30), (17, 200))]
    media = []
    for picture in pictures:
        out = io.BytesIO()
        picture.save(out, "PNG")
        media.append(read_image(out.getvalue(), ImageSettings(16, 64, "transformers")))
    texts = ["the cat ", "the dog"]
    found = ours.render(
        [{"role": "user", "content": _alternating(texts, [{"type": "media", "media": m} for m in media])}]
    )
    # 64 × 30 pixels are 2 rows of 4; 17 × 200 are made 5 × 64 first, which are 4 rows of 1.
    first, second = "[IMG][IMG][IMG][IMG][IMG_BREAK]" * 2, "[IMG][IMG_BREAK]" * 4
    first, second = (rows.removesuffix("[IMG_BREAK]") + "[IMG_END]" for rows in (first, second))
    written = f"<s>[INST]the cat {first}the dog{second}[/INST]"
    assert found.token_ids == inner.encode(written, add_special_tokens=False).ids
    place = ours.placeholders["image"]
    covered = [at for span in found.spans for at in range(span.start, span.stop)]
    assert covered == [at for at, token in enumerate(found.token_ids) if token == place]
    assert [span.digest for span in found.spans] == [m.digest for m in media for _ in range(m.grid[0])]
    blind = loaded(inner, tmp_path / "blind", {"chat_template": "{{ bos_token }}{{ messages[0].role }}"})
    with pytest.raises(InvalidRequestError, match="0 places for 1 images"):
        blind.render([{"role": "user", "content": [{"type": "media", "media": media[0]}]}])


def _alternating(texts: list[str], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for text, other in zip(texts, others, strict=True) for part in ({"type": "text", "text": text}, other)]
