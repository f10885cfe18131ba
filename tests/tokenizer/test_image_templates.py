"""Chat templates in Jinja that have a place for images."""

from __future__ import annotations

import numpy as np
import pytest

from ostro.core.media import MediaInput
from ostro.tokenizer.conversation import read_messages
from ostro.tokenizer.templates import ChatTemplate

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
